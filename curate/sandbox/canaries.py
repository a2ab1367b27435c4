"""Attacks that a sandbox has to withstand before anything else runs in it. One that works, and the sandbox is refused."""

import contextlib
import json
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from curate.sandbox.outcome import Job

# A process of this user that owns a secret and listens. It stands for everything else on the machine; `curate` itself is not
# put at risk. What was heard is told on its standard output when standard input ends.
_VICTIM = r"""
import json, os, select, signal, socket, sys
heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append("signal"))
tcp = socket.create_server(("127.0.0.1", 0))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(("127.0.0.1", 0))
abstract = socket.socket(socket.AF_UNIX); abstract.bind("\0" + sys.argv[1]); abstract.listen()
path = socket.socket(socket.AF_UNIX); path.bind(sys.argv[2]); path.listen(); os.chmod(sys.argv[2], 0o777)
print(json.dumps({"pid": os.getpid(), "tcp": tcp.getsockname()[1], "udp": udp.getsockname()[1]}), flush=True)
names = {tcp: "tcp", udp: "udp", abstract: "abstract unix socket", path: "unix socket", sys.stdin: "end"}
while True:
    for one in select.select(list(names), [], [])[0]:
        if one is sys.stdin:
            print(json.dumps(heard), flush=True)
            sys.exit()
        heard.append(names.pop(one))
"""

_ATTACKS = r"""
import os

def attempt(found, name, attack):
    try:
        found[name] = attack()
    except BaseException as error:
        found[name] = None

def control():
    import json, decimal, datetime, math, re, collections, random
    with open("/tmp/own", "w") as file:
        file.write("mine")
    with open("/tmp/own") as file:
        return json.loads(json.dumps(file.read())) + str(math.isqrt(decimal.Decimal(16).__int__()))

def attacks(at):
    import ctypes, signal, socket, subprocess, sys
    found = {}
    def read(path):
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "replace")
    def link():
        os.symlink(at["secret"], "/tmp/link")
        return read("/tmp/link")
    def write():
        with open(at["outside"], "w") as file:
            file.write("written")
    def connect(family, kind, address):
        def attack():
            one = socket.socket(family, kind)
            one.settimeout(1)
            one.connect(address)
            one.send(b"here")
            return True
        return attack
    def large():
        with open("/tmp/large", "wb") as file:
            for _ in range(64):
                file.write(bytes(1 << 20))
        return True
    def start(*command):
        def attack():
            return subprocess.run(command, timeout=2).returncode == 0
        return attack
    def kernel(name, *arguments):
        def attack():
            return getattr(ctypes.CDLL(None), name)(*arguments) >= 0
        return attack
    attempt(found, "reads a file of yours", lambda: read(at["secret"]))
    attempt(found, "reads a file of yours through a link", link)
    attempt(found, "reads another process's environment", lambda: read("/proc/%d/environ" % at["pid"]))
    attempt(found, "reads its parent's environment", lambda: read("/proc/%d/environ" % os.getppid()))
    attempt(found, "inherits the environment", lambda: repr(dict(os.environ)))
    attempt(found, "write", write)
    attempt(found, "reaches a TCP service", connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", at["tcp"])))
    attempt(found, "udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", at["udp"])) < 0)
    attempt(found, "reaches an abstract socket", connect(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + at["name"]))
    attempt(found, "reaches a unix socket", connect(socket.AF_UNIX, socket.SOCK_STREAM, at["path"]))
    attempt(found, "signal", lambda: os.kill(at["pid"], signal.SIGUSR1))
    attempt(found, "makes a user namespace", kernel("unshare", 0x10000000))
    attempt(found, "traces a process", kernel("ptrace", 16, os.getppid(), 0, 0))
    attempt(found, "opens io_uring", kernel("syscall", 425, 4, ctypes.create_string_buffer(256)))
    attempt(found, "starts a shell", start("/bin/sh", "-c", "true"))
    attempt(found, "starts a program", start(sys.executable, "-S", "-c", "0"))
    attempt(found, "writes a file of 64 MB", large)
    attempt(found, "has a terminal", lambda: os.open("/dev/tty", os.O_RDWR) > 0)
    return found
"""
_FORKS = r"""
import os, signal, time

def forks():
    pids = []
    try:
        for _ in range(200):
            pid = os.fork()
            if pid == 0:
                time.sleep(5)
                os._exit(0)
            pids.append(pid)
    except OSError:
        pass
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return len(pids)
"""
_DAEMON = r"""
import os, time

def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(60)
        os._exit(0)
    return True
"""


class Victim:
    """The process that stands for the machine, and what it was told."""

    def __init__(self, folder: Path, secret: str) -> None:
        self.secret, self.folder = secret, folder
        self.file, self.outside = folder / "secret", folder / "open" / "written"
        self.file.write_text(secret, encoding="utf-8")
        # Readable and writable for everybody: only the sandbox may stand between.
        folder.chmod(0o711)
        self.outside.parent.mkdir()
        self.outside.parent.chmod(0o777)
        self.file.chmod(0o644)
        self.name, self.path = f"curate-{secret}", str(folder / "open" / "socket")
        self.process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-S", "-c", _VICTIM, self.name, self.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"CURATE_CANARY": secret},
        )
        assert self.process.stdout
        self.place: Mapping[str, Any] = json.loads(self.process.stdout.readline())

    def heard(self) -> Sequence[str]:
        """Everything that reached it, and ends it."""
        out, _ = self.process.communicate(timeout=10)
        told: list[str] = json.loads(out)
        return [*told, *(["a file written outside"] if self.outside.exists() else [])]

    def attacks(self) -> Job:
        """The job that tries everything on this victim."""
        where = {**self.place, "secret": str(self.file), "outside": str(self.outside), "name": self.name, "path": self.path}
        tests = (
            f"assert control() == 'mine4', 'the control does not run'\nfound = attacks({where!r})\n"
            f"escaped = [name for name, value in found.items() if value is True or {self.secret!r} in str(value)]\n"
            "assert not escaped, ', '.join(escaped)"
        )
        return Job([_ATTACKS], tests)


@contextlib.contextmanager
def victim() -> Iterator[Victim]:
    """A victim for the time of the proof."""
    folder = Path(tempfile.mkdtemp(prefix="curate-canary-"))
    one = None
    try:
        one = Victim(folder, secrets.token_hex(16))
        yield one
    finally:
        if one is not None:
            one.process.kill()
            one.process.wait()
            for pipe in (one.process.stdin, one.process.stdout):
                if pipe and not pipe.closed:
                    pipe.close()
        shutil.rmtree(folder, ignore_errors=True)


def fork_job(processes: int) -> Job:
    """Tries 200 forks."""
    return Job([_FORKS], f"count = forks()\nassert count <= {processes}, f'makes {{count}} processes'")


def daemon_job() -> Job:
    """Leaves a process behind."""
    return Job([_DAEMON], "assert daemon()")


Run = Callable[[Job, Mapping[str, str]], tuple[str, str, bool]]
"""Runs a job with something more in the environment of the command; gives status, detail, and whether something outlived it."""


def escapes(run: Run, processes: int) -> list[str]:
    """What untrusted code could do in this sandbox; empty when it holds."""
    found: list[str] = []
    with victim() as one:
        status, detail, _ = run(one.attacks(), {"CURATE_CANARY": one.secret})
        if status != "passed":
            found.append(detail or status)
        found += [f"reaches another process ({what})" for what in one.heard()]
    status, detail, _ = run(fork_job(processes), {})
    if status != "passed":
        found.append(detail or status)
    status, detail, left_behind = run(daemon_job(), {})
    if left_behind or status != "passed":
        found.append("a process outlives the run" if left_behind else f"a daemon: {detail or status}")
    return found
