"""The probes that the level in use claims to stop, one test each, and what refuses when a sandbox does not hold."""

import ast
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from curate.errors import SandboxError
from curate.sandbox import Container, Job, Limits, Sandbox, levels, open_sandbox, undumpable
from curate.sandbox import sandbox as opening
from curate.sandbox.canaries import Victim, victim

LIMITS = Limits(cpu_s=2, wall_s=8.0)


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    try:
        return open_sandbox(LIMITS)
    except SandboxError as error:
        pytest.skip(f"no sandbox on this machine: {error}")


@pytest.fixture(scope="module")
def attacked(sandbox: Sandbox) -> Iterator[tuple[Mapping[str, Any], Victim, list[str]]]:
    """What the canaries' attacks saw inside, the victim, and what the victim heard."""
    with victim() as one:
        job = one.attacks()
        tests = job.tests.split("escaped")[0] + "print(ascii(found))\nassert found"
        verdict = sandbox.run(Job(job.programs, tests))
        assert verdict.passed, verdict
        yield ast.literal_eval(verdict.output), one, list(one.heard())


ATTACKS = [
    *("reads a file of yours", "reads a file of yours through a link", "reads another process's environment"),
    *("reads its parent's environment", "inherits the environment", "reaches a TCP service", "reaches an abstract socket"),
    *("reaches a unix socket", "makes a user namespace", "traces a process", "opens io_uring", "starts a shell"),
    *("starts a program", "writes a file of 64 MB", "has a terminal"),
]


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_fails(attacked: tuple[Mapping[str, Any], Victim, list[str]], name: str) -> None:
    found, one, _ = attacked
    assert name in found
    assert found[name] is not True
    assert one.secret not in str(found[name])


def test_nothing_reached_the_victim(attacked: tuple[Mapping[str, Any], Victim, list[str]]) -> None:
    # The receiver is asked, not the sender: a datagram into the sandbox's own loopback succeeds and arrives nowhere.
    assert attacked[2] == []


def inside(sandbox: Sandbox, expression: str, *, before: str = "") -> Any:
    """The value of an expression as untrusted code sees it."""
    program = f"import os\n{before}\ndef f():\n    return {expression}"
    verdict = sandbox.run(Job([program], "value = f()\nprint(ascii(value))\nassert True"))
    assert verdict.passed, verdict
    return ast.literal_eval(verdict.output)


LOOK = "def exists(path):\n    try:\n        os.stat(path)\n        return True\n    except OSError:\n        return False"


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/passwd", "/root", "/home", "/proc/self", "/sys", "/var/run/docker.sock", "/run", "/dev/shm", "/dev/tty"),
        *("/dev/nvidia0", "/dev/dri", "/tmp/.X11-unix", str(Path(__file__)), str(Path.home() / ".cache")),
    ],
)
def test_path_is_not_there(sandbox: Sandbox, path: str) -> None:
    assert inside(sandbox, f"exists({path!r})", before=LOOK) is False


def test_only_the_work_folder_can_be_written(sandbox: Sandbox) -> None:
    attempt = "def write(path):\n    try:\n        open(path, 'w').write('x')\n        return True\n    except OSError:\n        return False"
    where = ["/x", "/usr/x", "/usr/lib/x", "/dev/x", "/tmp/x"]
    assert inside(sandbox, f"[write(path) for path in {where}]", before=attempt) == [False, False, False, False, True]


def test_nothing_of_one_run_is_left_for_the_next(sandbox: Sandbox) -> None:
    assert inside(sandbox, "open('/tmp/left', 'w').write('x')") == 1
    assert inside(sandbox, "os.listdir('/tmp')") == []


def test_disk_is_bounded(sandbox: Sandbox) -> None:
    fill = (
        "def fill():\n    total = 0\n    try:\n        for n in range(100):\n            with open(f'/tmp/{n}', 'wb', 0) as file:\n"
        "                total += file.write(bytes(1 << 20))\n    except OSError:\n        pass\n    return total"
    )
    assert inside(sandbox, "fill()", before=fill) <= LIMITS.disk_mb << 20


def test_no_descriptor_but_its_own_is_open(sandbox: Sandbox) -> None:
    listing = "def opened():\n    found = []\n    for n in range(1024):\n        try:\n            os.fstat(n)\n            found.append(n)\n        except OSError:\n            pass\n    return found"
    assert inside(sandbox, "opened()", before=listing) == [0, 1, 2, 9]


def test_environment_holds_no_token(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    assert set(inside(sandbox, "dict(os.environ)")) <= {"PYTHONHASHSEED", "LANG", "LC_CTYPE", "HOME", "PWD"}


def test_every_program_is_its_own_nobody(sandbox: Sandbox) -> None:
    assert inside(sandbox, "os.getuid()") != 0
    assert inside(sandbox, "os.getpid()") < 10


def test_forks_are_capped_and_daemons_end(sandbox: Sandbox) -> None:
    bomb = "def bomb():\n    import time\n    pids = []\n    try:\n        while len(pids) < 200:\n            pid = os.fork()\n            if not pid:\n                os.setsid()\n                time.sleep(60)\n            pids.append(pid)\n    except OSError:\n        pass\n    return len(pids)"
    begin = time.monotonic()
    assert inside(sandbox, "bomb()", before=bomb) <= LIMITS.processes
    assert time.monotonic() - begin < LIMITS.wall_s


def test_many_fork_bombs_at_once_end(sandbox: Sandbox) -> None:
    bomb = Job(["import os\ndef f():\n    while True:\n        try: os.fork()\n        except OSError: pass"], "assert f()")
    quick = replace(sandbox, limits=replace(sandbox.limits, cpu_s=1, wall_s=3.0))
    assert {verdict.status for verdict in quick.run_all([bomb] * 4, workers=4)} <= {"timeout", "error"}
    assert sandbox.run(Job(["def f():\n    return 1"], "assert f() == 1")).passed


def test_the_parent_cannot_be_read_while_programs_run() -> None:
    def dumpable() -> int:
        import ctypes

        return int(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))

    before = dumpable()
    with undumpable():
        assert dumpable() == 0
        with undumpable():
            pass
        assert dumpable() == 0
    assert dumpable() == before


# --- refusals -----------------------------------------------------------------------------------------------------------------


def program(path: Path, text: str) -> Path:
    """An executable script."""
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def found_at(monkeypatch: pytest.MonkeyPatch, paths: Mapping[str, Path | None]) -> None:
    """Let the system's programs be these."""
    real = levels.system_program
    monkeypatch.setattr(levels, "system_program", lambda name: paths[name] if name in paths else real(name))


# Takes bwrap's options, honours none of them, and runs the command.
_STUB = """#!/bin/sh
[ "$1" = --help ] && { echo --size --disable-userns; exit 0; }
while [ "$1" != -- ]; do shift; done
shift
cd /tmp
PYTHONHASHSEED=0 exec "$@"
"""


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="stands in for bwrap where bwrap works")
def test_a_bwrap_that_isolates_nothing_is_caught(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("/tmp") / f"curate-stub-{os.getpid()}"
    folder.mkdir(mode=0o755)
    try:
        found_at(monkeypatch, {"bwrap": program(folder / "bwrap", _STUB)})
        with pytest.raises(SandboxError, match="does not isolate") as caught:
            open_sandbox(replace(LIMITS, output_bytes=60_001))
    finally:
        shutil.rmtree(folder)
    assert "reads a file of yours" in str(caught.value)
    assert caught.value.exit_code == 5


def test_no_bwrap_is_refused_at_once_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found_at(monkeypatch, {"bwrap": None})
    begin = time.monotonic()
    with pytest.raises(SandboxError, match="install bubblewrap") as caught:
        open_sandbox(replace(LIMITS, output_bytes=60_002))
    assert time.monotonic() - begin < 2
    assert caught.value.exit_code == 5


def test_a_bwrap_that_the_kernel_refuses_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n"
    tmp_path.chmod(0o755)
    found_at(monkeypatch, {"bwrap": program(tmp_path / "bwrap", text), "setpriv": Path("/usr/bin/env")})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SandboxError, match="No permissions to create new namespace"):
        open_sandbox(replace(LIMITS, output_bytes=60_003))


def test_a_planted_program_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bwrap", _STUB)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    assert levels.system_program("bwrap") in (None, Path("/usr/bin/bwrap"), Path("/bin/bwrap"), Path("/usr/local/bin/bwrap"))
    assert levels.system_program("./bwrap") is None
    assert levels.system_program(str(tmp_path / "bwrap")) is None
    monkeypatch.setattr(levels, "_PLACES", (tmp_path,))
    (tmp_path / "bwrap").chmod(0o777)
    assert levels.system_program("bwrap") is None


def test_no_environment_variable_opens_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_ALLOW_CODE_EVAL", "CURATE_UNSAFE", "CURATE_ALLOW_CODE"):
        monkeypatch.setenv(name, "1")
    found_at(monkeypatch, {"bwrap": None})
    with pytest.raises(SandboxError):
        open_sandbox(replace(LIMITS, output_bytes=60_004))


def test_an_unknown_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "seccomp_filter", lambda: None)
    with pytest.raises(SandboxError, match="processor"):
        open_sandbox(replace(LIMITS, output_bytes=60_005))


def test_a_kernel_that_counts_processes_of_others_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.release", lambda: "5.10.0-28-amd64")
    with pytest.raises(SandboxError, match="too old"):
        open_sandbox(replace(LIMITS, output_bytes=60_006))


# --- containers ---------------------------------------------------------------------------------------------------------------

# Notes its arguments and, for `run`, starts the command on this machine with nothing around it.
_ENGINE = """#!/bin/sh
printf '%s\\n' "$@" >> "$(dirname "$0")/asked"
[ "$1" = run ] || exit 0
while [ "$1" != python:3.11-slim ]; do shift; done
shift
exec {python} "$@"
"""


def test_a_container_is_asked_for_isolation_and_still_has_to_prove_it(tmp_path: Path) -> None:
    engine = program(tmp_path / "engine", _ENGINE.format(python=sys.executable))
    with pytest.raises(SandboxError, match=r"cannot be run safely here: "):
        open_sandbox(LIMITS, Container(str(engine), "python:3.11-slim", runtime="runsc"))
    asked = (tmp_path / "asked").read_text(encoding="utf-8").split("\n")
    for one in ("none", "--read-only", "ALL", "no-new-privileges", "--pids-limit", "--memory", "65534:65534", "never", "runsc"):
        assert one in asked


def test_an_engine_that_is_not_there_or_has_no_daemon_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="no program of that name"):
        open_sandbox(LIMITS, Container("no-such-engine", "python:3.11-slim"))
    engine = program(tmp_path / "engine", "#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    with pytest.raises(SandboxError, match="Cannot connect to the Docker daemon"):
        open_sandbox(LIMITS, Container(str(engine), "python:3.11-slim"))


def test_an_engine_that_others_can_change_is_refused(tmp_path: Path) -> None:
    engine = program(tmp_path / "engine", "#!/bin/sh\n")
    engine.chmod(engine.stat().st_mode | stat.S_IWOTH)
    with pytest.raises(SandboxError, match="only its owner can change"):
        open_sandbox(LIMITS, Container(str(engine), "python:3.11-slim"))
