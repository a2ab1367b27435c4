"""The ways to isolate: which command starts an interpreter where it can do no harm, or why there is none."""

import os
import platform
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from curate.errors import SandboxError
from curate.sandbox.outcome import Limits

_PLACES = (Path("/usr/bin"), Path("/bin"), Path("/usr/local/bin"))
"""Where programs of the system stand; PATH is not asked, as anybody can plant a `bwrap` there."""
_NOBODY = 65534
_OLDEST_KERNEL = (5, 14)

# Reads the harness from standard input: a wheel in a private home folder could not be read from inside.
_BOOT = (
    "import sys,os,marshal\n"
    "sys.path[:]=[p for p in sys.path if p]\n"
    "def read(n):\n"
    " b=b''\n"
    " while len(b)<n:\n"
    "  c=os.read(0,n-len(b))\n"
    "  if not c:os._exit(3)\n"
    "  b+=c\n"
    " return b\n"
    "b=read(int.from_bytes(read(4),'big'))\n"
    "c=marshal.loads(b[1:]) if b[:1]==b'm' else compile(b[1:],'harness.py','exec',0,True)\n"
    "exec(c,{'__name__':'harness'})"
)
_PYTHON = ("-u", "-s", "-S", "-B", "-c", _BOOT)


@dataclass(frozen=True)
class Container:
    """A container engine that the user has set up and named."""

    engine: str
    """`docker`, `podman`, or an absolute path."""
    image: str
    """An image with `python3` that the engine already has; nothing is pulled."""
    runtime: str | None = None
    """Such as `runsc`, for a kernel of its own (gVisor)."""


@dataclass(frozen=True)
class Level:
    """One way to isolate."""

    name: str
    """`bwrap` or `container`."""
    python: str
    """The interpreter, as a path of this machine or inside the image."""
    prefix: str | None
    """The `sys.prefix` it must have inside; another one would be another build's library."""
    command: Sequence[str]
    """Starts the interpreter; `{name}` and `{seed}` are filled in for each run."""
    readable: Sequence[str] = ()
    """Paths that the interpreter needs."""
    kill: Sequence[str] = ()
    """Ends a run that the signal to `command` does not end."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Of the command itself; what runs inside has its own."""
    counts_processes: bool = False
    """The command itself caps processes. `RLIMIT_NPROC` would count those of all containers, which have one user."""

    def arguments(self, *, name: str, seed: int) -> list[str]:
        """The command of one run."""
        return [part.replace("{name}", name).replace("{seed}", str(seed)) for part in self.command]


def bubblewrap_levels(limits: Limits) -> Iterator[Level]:
    """One level per interpreter that may work inside bubblewrap: this one's first, then the system's. Raises SandboxError."""
    if not sys.platform.startswith("linux"):
        raise SandboxError(f"bubblewrap needs Linux, this is {platform.system()}")
    if _kernel() < _OLDEST_KERNEL:
        raise SandboxError(
            f"Linux {platform.release()} is too old: before {'.'.join(map(str, _OLDEST_KERNEL))} a limit on processes "
            "counts those outside the sandbox too"
        )
    bwrap = system_program("bwrap")
    if bwrap is None:
        raise SandboxError(
            "bubblewrap is not installed (looked for a bwrap that belongs to root in /usr/bin, /bin and /usr/local/bin)"
        )
    # As root no limit on the number of processes holds, not even in a user namespace: become nobody first.
    before: list[str] = []
    if os.geteuid() == 0:
        setpriv = system_program("setpriv")
        if setpriv is None:
            raise SandboxError("as root, setpriv (of util-linux) is needed to become nobody, and is not there")
        before = [str(setpriv), f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--no-new-privs", "--"]
    options = _options_of(bwrap)
    for executable, prefix in _interpreters():
        paths = _interpreter_paths(executable, prefix)
        outside = [f"--{what}" for what in ("unshare-all", "new-session", "die-with-parent", "clearenv")]
        if "--disable-userns" in options:
            outside += ["--unshare-user", "--disable-userns"]
        size = ["--size", str(limits.disk_mb << 20)] if "--size" in options else []
        mounts = [part for path in paths for part in _mount(path)]
        inside = ["--setenv", "PYTHONHASHSEED", "{seed}", "--setenv", "LANG", "C.UTF-8", "--setenv", "HOME", "/tmp"]  # noqa: S108
        devices = [part for name in ("null", "zero", "urandom") for part in ("--dev-bind", f"/dev/{name}", f"/dev/{name}")]
        root = ["--remount-ro", "/", "--chdir", "/tmp", "--"]  # noqa: S108
        yield Level(
            name="bwrap",
            python=str(executable),
            prefix=str(prefix),
            command=[
                *(*before, str(bwrap), *outside, "--cap-drop", "ALL", *mounts, *size, "--tmpfs", "/tmp"),  # noqa: S108
                *(*devices, *inside, *root, str(executable), *_PYTHON),
            ],
            readable=[*map(str, paths), "/dev/null", "/dev/zero", "/dev/urandom"],
            environment={"PATH": "/usr/bin:/bin"},
        )


def container_level(container: Container, limits: Limits) -> Level:
    """The user's container engine. Raises SandboxError where it is not there or could have been planted."""
    asked = Path(container.engine)
    engine = (
        (asked if _is_trusted(asked, owners=(0, os.geteuid())) else None) if asked.is_absolute() else system_program(str(asked))
    )
    if engine is None:
        raise SandboxError(
            f"container engine {container.engine!r}: no program of that name that belongs to root (or, at an absolute path, "
            "to you) and that only its owner can change; install it, or name its absolute path"
        )
    memory = f"{limits.memory_mb * 2 + limits.disk_mb}m"  # candidate and grader
    options = [
        *("--rm", "--interactive", "--pull", "never", "--name", "{name}", "--network", "none", "--read-only"),
        *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", str(limits.processes + 2)),
        *("--memory", memory, "--memory-swap", memory, "--user", f"{_NOBODY}:{_NOBODY}", "--workdir", "/tmp"),  # noqa: S108
        *("--tmpfs", f"/tmp:rw,nosuid,nodev,noexec,size={limits.disk_mb}m,mode=1777", "--log-driver", "none"),  # noqa: S108
        *("--env", "PYTHONHASHSEED={seed}", "--env", "LANG=C.UTF-8", "--env", "HOME=/tmp", "--entrypoint", "python3"),
        *(("--runtime", container.runtime) if container.runtime else ()),
    ]
    kept = ("PATH", "HOME", "XDG_RUNTIME_DIR", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG")
    return Level(
        name="container",
        python=f"python3 of {container.image}",
        prefix=None,
        command=[str(engine), "run", *options, container.image, *_PYTHON],
        readable=["/usr", "/lib", "/lib64", "/opt", "/dev/null", "/dev/zero", "/dev/urandom", "/etc/ld.so.cache"],
        kill=[str(engine), "kill", "{name}"],
        counts_processes=True,
        environment={name: os.environ[name] for name in kept if name in os.environ},
    )


def _kernel() -> tuple[int, ...]:
    """Major and minor version."""
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in platform.release().split(".")[:2])


def system_program(name: str) -> Path | None:
    """A program of the system that belongs to root and that nobody else can change; PATH is not asked."""
    if "/" in name:
        return None
    return next((place / name for place in _PLACES if _is_trusted(place / name, owners=(0,))), None)


def _is_trusted(path: Path, *, owners: Sequence[int]) -> bool:
    """Whether file and folder, links resolved, belong to one of the owners and can be changed by no other."""
    try:
        real = path.resolve(strict=True)
        stats = [real.stat(), real.parent.stat()]
    except (OSError, RuntimeError):
        return False
    if not (stat.S_ISREG(stats[0].st_mode) and os.access(real, os.X_OK)):
        return False
    return all(one.st_uid in owners and not one.st_mode & (stat.S_IWGRP | stat.S_IWOTH) for one in stats)


def _options_of(bwrap: Path) -> set[str]:
    """The options this version knows: --disable-userns came with 0.8, --size with 0.6."""
    try:
        done = subprocess.run([bwrap, "--help"], capture_output=True, text=True, timeout=10, check=False, env={})  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxError(f"{bwrap} does not run: {error}") from error
    return {word for word in (done.stdout + done.stderr).split() if word.startswith("--")}


def _interpreters() -> Iterator[tuple[Path, Path]]:
    """Executable and `sys.prefix` of the interpreters worth trying, this one's first."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    mine = Path(sys.base_prefix) / "bin" / version
    seen = set()
    if mine.exists():
        seen.add(mine.resolve())
        yield mine.resolve(), Path(sys.base_prefix)
    for place, prefix in ((Path("/usr/bin"), Path("/usr")), (Path("/usr/local/bin"), Path("/usr/local"))):
        path = (place / "python3").resolve()
        if path.exists() and path not in seen and _is_trusted(path, owners=(0,)):
            seen.add(path)
            yield path, prefix


def _interpreter_paths(executable: Path, prefix: Path) -> list[Path]:
    """What an interpreter reads to start: itself, its library, the shared libraries of the system."""
    system = [Path(name) for name in ("/usr/lib", "/usr/lib64", "/lib", "/lib64")]
    own = [prefix / name for name in ("lib", "lib64")]
    return [executable, *(path for path in dict.fromkeys([*system, *own]) if path.exists())]


def _mount(path: Path) -> list[str]:
    """Read-only, at its own place; a link (`/lib` to `usr/lib`) stays a link."""
    if path.is_symlink():
        return ["--symlink", str(path.readlink()), str(path)]
    return ["--ro-bind", str(path), str(path)]
