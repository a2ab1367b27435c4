"""What is asked of a sandbox and what it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Status = Literal[
    "passed", "failed", "error", "exited", "timeout", "memory", "output", "syntax", "no_checks", "bad_tests", "no_code"
]
"""What became of a program:

passed: every test ran to its end, at least one assert held, and the program was called.
failed: an assert of the tests did not hold.
error: the program, or a test, raised, or the program lacks what the tests name.
exited: the program ended its process before the tests were done.
timeout, memory, output: it took more than its share of processor or clock time, memory, or printed text.
syntax: it does not compile.
no_checks: the tests ran but checked nothing: no assert was reached, or the program was never called.
bad_tests: the tests themselves do not compile.
no_code: the text holds no code.
"""
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class Limits:
    """What one program may take."""

    cpu_s: int = 5
    """Processor seconds of each process; whole, as the kernel counts."""
    wall_s: float = 20.0
    """Seconds by the clock, for a program that sleeps; also on a busy machine well above `cpu_s`."""
    memory_mb: int = 512
    """Address space of each process."""
    processes: int = 16
    """Processes and threads, together."""
    file_mb: int = 16
    """Largest file."""
    disk_mb: int = 32
    """Everything in the work folder, which is memory."""
    output_bytes: int = 65_536
    """What it may print before it is ended."""

    def rlimits(self) -> Mapping[str, tuple[int, int]]:
        """Soft and hard limits for `setrlimit`."""
        megabyte = 1 << 20
        return {
            "RLIMIT_CPU": (self.cpu_s, self.cpu_s + 1),
            "RLIMIT_AS": (self.memory_mb * megabyte,) * 2,
            "RLIMIT_FSIZE": (self.file_mb * megabyte,) * 2,
            "RLIMIT_NPROC": (self.processes,) * 2,
            "RLIMIT_NOFILE": (64, 64),
            "RLIMIT_CORE": (0, 0),
            "RLIMIT_MEMLOCK": (0, 0),
            "RLIMIT_MSGQUEUE": (0, 0),
        }


@dataclass(frozen=True)
class Job:
    """A program and the tests it has to pass."""

    programs: Sequence[str]
    """Ways to read the program: the first that compiles and defines `entry`, else the first that compiles."""
    tests: str
    """Python statements. Where they define `check` and do not call it, it is called with the entry point."""
    entry: str | None = None
    """Name of the function under test; None: the last function that the program defines."""
    stub: str = ""
    """Code that the prompt gave. The tests take its functions, but for the entry point, from here and not from the program."""
    setup: str = ""
    """Statements that run before the program, and before the tests."""


@dataclass(frozen=True)
class Verdict:
    """What became of a program; says the same of the same program wherever it ran."""

    status: Status
    detail: str = ""
    """Why, for people: the exception, the line of the tests. Made by untrusted code: show it escaped."""
    output: str = ""
    """What was printed, at most `output_bytes`, undecodable bytes replaced. Untrusted likewise."""
    flaky: bool = False
    """Another run of the same program ended otherwise."""

    @property
    def passed(self) -> bool:
        """Whether the program passed its tests, every time."""
        return self.status == "passed" and not self.flaky


def as_message(job: Job, *, seed: int) -> Mapping[str, Any]:
    """What the grader reads."""
    is_random = any("random" in text for text in (*job.programs, job.tests, job.setup))
    program = {"programs": list(job.programs), "setup": job.setup, "entry": job.entry, "seed": seed, "is_random": is_random}
    return {"program": program, "stub": job.stub, "tests": job.tests}
