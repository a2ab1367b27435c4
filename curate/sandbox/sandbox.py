"""Opening a sandbox that has just proved itself, and running programs in it."""

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from curate.errors import SandboxError
from curate.sandbox.canaries import escapes
from curate.sandbox.execution import Raw, execute, framed
from curate.sandbox.levels import Container, Level, bubblewrap_levels, container_level
from curate.sandbox.outcome import STATUSES, Job, Limits, Verdict, as_message
from curate.sandbox.seccomp import seccomp_filter

_HELP = "docs/sandbox.md says what each level needs"
_INSTALL = (
    "install bubblewrap (apt-get install bubblewrap, dnf install bubblewrap), or name a container engine and image as the "
    f"filter's `container`; {_HELP}"
)
_ATTEMPTS = 3
"""Starts of one run before the sandbox counts as broken; a machine out of processes for a moment is not."""
_ENDED_BY_A_LIMIT = ("timeout", "memory", "output", "syntax", "bad_tests", "no_code")


@dataclass(frozen=True)
class Sandbox:
    """Runs untrusted programs at one level of isolation."""

    level: Level
    limits: Limits
    python: str
    """Version of the interpreter inside."""
    landlock: int
    """Version of Landlock in force; 0 where the kernel has none."""
    harness: bytes
    """As standard input begins."""

    @property
    def name(self) -> str:
        """For plans and cards: `bwrap`, `container`."""
        return self.level.name

    def run(self, job: Job, *, runs: int = 1) -> Verdict:
        """Run a program against its tests, `runs` times under different seeds; only one that came to an end is run again."""
        first = self._run_once(job, 0)
        if first.status in _ENDED_BY_A_LIMIT:
            return first
        for seed in range(1, runs):
            again = self._run_once(job, seed)
            if again.status != first.status:
                worse = first if first.status != "passed" else again
                return replace(worse, flaky=True)
        return first

    def run_all(self, jobs: Sequence[Job], *, runs: int = 1, workers: int | None = None) -> list[Verdict]:
        """One verdict per job, in order; as many at a time as this process may use cores."""
        with undumpable(), ThreadPoolExecutor(workers or available_cores(), thread_name_prefix="sandbox") as pool:
            futures = [pool.submit(self.run, job, runs=runs) for job in jobs]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _run_once(self, job: Job, seed: int) -> Verdict:
        for _ in range(_ATTEMPTS):
            raw = self._execute(job, seed)
            if raw.answers:
                return _verdict(raw)
        raise SandboxError(f"{self.name}: does not start any more: {_shown(raw)}; {_INSTALL}")

    def try_attack(self, job: Job, environment: Mapping[str, str]) -> tuple[str, str, bool]:
        """Run a canary: status, detail, and whether something outlived it."""
        level = replace(self.level, environment={**self.level.environment, **environment})
        raw = replace(self, level=level)._execute(job, wall_s=min(self.limits.wall_s, 10.0))
        if not raw.answers:
            return "error", _shown(raw), raw.left_behind
        verdict = _verdict(raw)
        return verdict.status, verdict.detail, raw.left_behind

    def _execute(self, job: Job, seed: int = 0, *, wall_s: float | None = None) -> Raw:
        stdin = self.harness + framed({"limits": _inner_limits(self.level, self.limits)}, as_message(job, seed=seed))
        wall = self.limits.wall_s if wall_s is None else wall_s
        return execute(self.level, stdin, wall_s=wall, output_bytes=self.limits.output_bytes, seed=seed)


@cache
def open_sandbox(limits: Limits | None = None, container: Container | None = None) -> Sandbox:
    """A sandbox in which the attacks of `curate.sandbox.canaries` have just failed: the container, else bubblewrap.

    Proved once per process and settings. Raises SandboxError, with what to install, where none holds: nothing runs then.
    """
    limits = limits or Limits()
    if sys.platform not in ("linux", "darwin"):
        raise SandboxError("programs of a data set are not run on this system; use Linux, or WSL 2; docs/sandbox.md")
    if container is not None:
        try:
            return _proved(container_level(container, limits), limits)
        except SandboxError as error:
            raise SandboxError(f"programs of the data set cannot be run safely here: {error}; {_HELP}") from error
    complaints = []
    try:
        for level in bubblewrap_levels(limits):
            try:
                return _proved(level, limits)
            except _NotStartedError as error:
                complaints.append(f"{level.python}: {error}")
    except SandboxError as error:
        raise SandboxError(f"programs of the data set cannot be run safely here: {error}; {_INSTALL}") from error
    told = "; ".join(complaints) or "no Python interpreter was found for it"
    raise SandboxError(f"programs of the data set cannot be run safely here: bubblewrap does not start: {told}; {_INSTALL}")


class _NotStartedError(SandboxError):
    """This interpreter cannot run at this level; another may."""


def _proved(level: Level, limits: Limits) -> Sandbox:
    source = Path(__file__).with_name("harness.py").read_bytes()
    inner = _inner_limits(level, limits)
    begin = (len(source) + 1).to_bytes(4, "big") + b"s" + source
    probe = begin + framed({"limits": inner, "probe": True, "source": source.decode()})
    raw = execute(level, probe, wall_s=20, output_bytes=limits.output_bytes)
    facts = raw.answers[0] if raw.answers else {}
    if not isinstance(facts.get("code"), str):
        raise _NotStartedError(_shown(raw))
    if level.prefix is not None and Path(str(facts["prefix"])).resolve() != Path(level.prefix).resolve():
        raise _NotStartedError(f"has the library of {facts['prefix']}, not its own")
    if facts["descriptors"]:
        raise SandboxError(f"{level.name}: the sandbox inherits open files {facts['descriptors']}")
    code = b"m" + bytes.fromhex(facts["code"])
    harness = len(code).to_bytes(4, "big") + code
    sandbox = Sandbox(level, limits, str(facts["version"]), int(facts["landlock"]), harness)
    with undumpable():
        found = escapes(sandbox.try_attack, limits.processes)
    if found:
        raise SandboxError(
            f"{level.command[0] if level.name == 'container' else level.name}: does not isolate: untrusted code "
            f"{'; '.join(found)}; nothing else was run"
        )
    return sandbox


def _inner_limits(level: Level, limits: Limits) -> Mapping[str, Any]:
    seccomp = seccomp_filter()
    if seccomp is None:
        raise SandboxError(f"no filter of system calls is known for this kind of processor ({os.uname().machine})")
    rlimits = dict(limits.rlimits())
    if level.counts_processes:
        del rlimits["RLIMIT_NPROC"]
    return {
        "rlimits": rlimits,
        "readable": list(level.readable),
        "writable": ["/tmp", "/dev/null"],  # noqa: S108  (the sandbox's own)
        "seccomp": seccomp.hex(),
        "cpu_s": limits.cpu_s,
    }


def _verdict(raw: Raw) -> Verdict:
    output = raw.output.decode("utf-8", "replace")
    if raw.is_loud:
        return Verdict("output", "printed more than it may", output)
    last = raw.answers[1] if len(raw.answers) == 2 else {}
    if last.get("status") in STATUSES:
        return Verdict(last["status"], str(last.get("detail", ""))[:1000], output)
    if raw.is_late:
        return Verdict("timeout", "did not end in time", output)
    return Verdict("error", "the run ended without a verdict", output)


def _shown(raw: Raw) -> str:
    """Its complaint, as one printable line."""
    text = raw.output.decode("utf-8", "replace").strip() or f"exit code {raw.exit_code} and no word"
    line = text.splitlines()[-1][:300]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_LOCK = threading.Lock()
_INSIDE = {"count": 0, "before": 1}
_GET_DUMPABLE, _SET_DUMPABLE = 3, 4


@contextlib.contextmanager
def undumpable() -> Iterator[None]:
    """Meanwhile no process of the same user can read this one's memory or environment (tokens), should one get out."""
    if not sys.platform.startswith("linux"):
        yield
        return
    prctl = ctypes.CDLL(None).prctl
    with _LOCK:
        if not _INSIDE["count"]:
            _INSIDE["before"] = prctl(_GET_DUMPABLE, 0, 0, 0, 0)
            prctl(_SET_DUMPABLE, 0, 0, 0, 0)
        _INSIDE["count"] += 1
    try:
        yield
    finally:
        with _LOCK:
            _INSIDE["count"] -= 1
            if not _INSIDE["count"] and _INSIDE["before"] == 1:  # 2, set by the kernel for setuid programs, cannot be restored
                prctl(_SET_DUMPABLE, 1, 0, 0, 0)
