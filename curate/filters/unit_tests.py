"""The `unit_tests` filter: runs a completion's code against the row's tests, in a sandbox or not at all."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from curate.errors import SandboxError
from curate.examples import Example
from curate.filters.base import Filter, Scores, Unscored, register
from curate.sandbox import Container, Job, Limits, Sandbox, open_sandbox

LONGEST = 1_000_000
NO_SANDBOX = "no_sandbox"
_MARK = re.compile(r"\bfinal[ _]answer[ \t]{0,4}(?:\*\*)?:(?:\*\*)?", re.IGNORECASE)
_FENCE = re.compile(r"^[ \t]{0,8}```([^\n`]{0,40})\n", re.MULTILINE)
_CLOSING = re.compile(r"^[ \t]{0,8}```[ \t]*$", re.MULTILINE)


class ContainerSettings(BaseModel):
    """A container engine to run in, instead of bubblewrap."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: str = Field(description="docker, podman, or an absolute path.")
    image: str = Field(description="An image with python3 that the engine already has; nothing is pulled.")
    runtime: str | None = Field(default=None, description="The engine's runtime, such as runsc (gVisor).")


@register("unit_tests")
class UnitTests(Filter):
    """Whether the completion's code passes the row's tests (`tests`: Python statements), run where it can do no harm.

    Outputs:
        passed: true when every test ran to its end, at least one assert held, and the program was called, in every run; false is
            worse.
        status: `passed`; `failed` (an assert did not hold); `error` (the code or a test raised, or what the tests name is not
            defined); `exited` (it ended its process before the tests were done); `timeout`, `memory`, `output` (more than its
            share of time, memory, printed text); `syntax` (does not compile); `no_code`; `no_checks` (the tests checked
            nothing); `bad_tests` (the tests do not compile).
        flaky: the runs ended differently; such a row has not passed. False for a program that a limit ended: it runs once.

    Code is read after the last `Final Answer:`; there the last fenced block, else all of it; a completion without either is code
    as it stands. Where a column holds the stub that the prompt gave, the program is stub and code together, so that a bare
    body completes it and a whole function replaces it. Tests that define `check` and do not call it are called with the entry
    point, as HumanEval has it.

    The program and the tests run in two processes that exchange plain values, so that neither `os._exit(0)` nor an object that
    equals everything passes a test; docs/sandbox.md says what a hostile program can still do. Each run has its own hash seed and
    seed of `random`, which are the run's number: the same row gives the same scores, unless its code asks the clock or
    the system.

    Unscored `no tests` without tests, `too long` when code, stub, setup and tests have more than 1,000,000 characters together,
    and `no_sandbox` with `without_sandbox: null` where nothing isolates. By default the run is refused there, before any model
    loads. Standard library only: a program that needs numpy is an `error`, unless a container image brings it.
    Cost: about 20 ms per run and row on one core, start of the process included; rows run side by side on all cores; no model.
    Source: the tests and the rule of HumanEval (Chen et al. 2021, arXiv:2107.03374); measured in docs/sandbox.md.
    """

    version: ClassVar[int] = 1
    reads: ClassVar = ("messages", "tests", "extra")
    outputs: ClassVar = {"passed": "bool", "status": "string", "flaky": "bool"}
    # Where a program runs changes no verdict; that nothing runs does, and `identity` says so.
    described_by_identity: ClassVar = ("container", "without_sandbox")

    timeout_s: int = Field(default=5, ge=1, le=3600, description="Processor seconds per run; by the clock four times as many.")
    memory_mb: int = Field(default=512, ge=64, description="Memory of each process, in MB.")
    runs: int = Field(default=2, ge=1, le=20, description="Runs per row, each with other seeds; 1 finds nothing flaky.")
    setup: str = Field(default="", description="Python statements before every program and its tests, such as `import math`.")
    setup_column: str = Field(default="test_setup", description="Column with such statements of the row itself.")
    stub_column: str = Field(default="code_prompt", description="Column with the code that the prompt gave to complete.")
    entry_point_column: str = Field(default="entry_point", description="Column with the name of the function under test.")
    container: ContainerSettings | None = Field(default=None, description="Run in this container, not in bubblewrap.")
    without_sandbox: Literal["refuse"] | None = Field(
        default="refuse", description="Where nothing isolates: refuse the run, or (null) leave every row unscored."
    )

    def check_machine(self) -> list[str]:
        """Prove the sandbox. Raises SandboxError without one, or says that every row will be unscored."""
        try:
            self._sandbox()
        except SandboxError as error:
            if self.without_sandbox == "refuse":
                raise SandboxError(f"{self.name}: {error}; or leave such rows unscored with `without_sandbox: null`") from error
            return [f"{self.name}: every row stays unscored ({NO_SANDBOX}): {error}"]
        return []

    def identity(self) -> dict[str, Any]:
        """Rows left unscored for want of a sandbox are not taken for scored ones where there is one."""
        return {"sandbox": "none"} if self.without_sandbox is None and not self._is_isolated() else {}

    def freeze(self) -> dict[str, Any]:
        """Where the programs run, for the record."""
        self.check_machine()
        if not self._is_isolated():
            return {"sandbox": None}
        sandbox = self._sandbox()
        return {"sandbox": sandbox.name, "python": sandbox.python, "landlock": sandbox.landlock}

    def score_batch(self, examples: Sequence[Example]) -> list[Scores | Unscored]:
        """One verdict per row; nothing is run, and no sandbox asked for, where no row has tests."""
        results: list[Scores | Unscored] = []
        jobs: dict[int, Job] = {}
        for place, example in enumerate(examples):
            found = self.job(example)
            if isinstance(found, Job):
                jobs[place] = found
                found = Unscored(NO_SANDBOX)
            results.append(found)
        if not jobs or (self.without_sandbox is None and not self._is_isolated()):
            return results
        verdicts = self._sandbox().run_all(list(jobs.values()), runs=self.runs)
        for place, verdict in zip(jobs, verdicts, strict=True):
            results[place] = {"passed": verdict.passed, "status": verdict.status, "flaky": verdict.flaky}
        return results

    def job(self, example: Example) -> Job | Scores | Unscored:
        """What would be run for a row, or its scores where nothing has to be."""
        tests = "\n".join(example.tests or ())
        if not tests.strip():
            return Unscored("no tests")
        stub, setup = column(example.extra, self.stub_column), column(example.extra, self.setup_column)
        if len(example.completion) + len(stub) + len(setup) + len(tests) > LONGEST:
            return Unscored("too long")
        code = code_of(example.completion)
        if not code.strip():
            return {"passed": False, "status": "no_code", "flaky": False}
        entry = column(example.extra, self.entry_point_column).strip() or None
        return Job(programs(code, stub), tests, entry=entry, stub=stub, setup="\n".join(filter(None, (self.setup, setup))))

    def _sandbox(self) -> Sandbox:
        limits = Limits(cpu_s=self.timeout_s, wall_s=4.0 * self.timeout_s, memory_mb=self.memory_mb)
        return open_sandbox(limits, Container(**dict(self.container)) if self.container else None)

    def _is_isolated(self) -> bool:
        try:
            self._sandbox()
        except SandboxError:
            return False
        return True


def column(extra: Mapping[str, Any], name: str) -> str:
    """A column's text; of a list of texts its lines; empty where it is absent or something else."""
    value = extra.get(name)
    if isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    return value if isinstance(value, str) else ""


def code_of(completion: str) -> str:
    """The code in a completion: after the last `Final Answer:` where there is one; there the last fenced block, else all."""
    marks = [mark.end() for mark in _MARK.finditer(completion)]
    text = completion[marks[-1] :] if marks else completion
    fenced = _fenced(text)
    return text if fenced is None else fenced


def _fenced(text: str) -> str | None:
    """The last fenced block that names no other language than Python; one that is never closed goes to the end."""
    found, position = None, 0
    while opening := _FENCE.search(text, position):
        closing = _CLOSING.search(text, opening.end())
        end = closing.start() if closing else len(text)
        if opening[1].strip().lower() in ("", "python", "python3", "py", "python 3"):
            found = text[opening.end() : end]
        position = closing.end() if closing else len(text)
    return found


def programs(code: str, stub: str) -> list[str]:
    """Ways to read the code, the likeliest first."""
    if not stub:
        return [code]
    indented = "\n".join("    " + line if line.strip() else line for line in code.splitlines())
    return [f"{stub}\n{code}", code, f"{stub}\n{indented}"]
