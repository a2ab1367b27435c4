"""Tasks whose answer is Python code: pass@1, run where it can do no harm or not at all."""

import ast
import warnings
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from curate.errors import SandboxError
from curate.examples import Example
from curate.examples.layouts import as_tests
from curate.filters.unit_tests import ContainerSettings, UnitTests, code_of
from curate.sandbox import Container, Job, Limits, Sandbox, open_sandbox
from curate.trials.tasks.base import Item, Outcome, Task
from curate.trials.tasks.columns import Row


class CodeTask(Task):
    """Code that has to pass the row's tests, read and run as the filter `unit_tests` does.

    Lenient: that filter's reading. Strict: the same, but the code must stand in a fenced block or after `Final Answer:`.
    """

    kind: Literal["code"] = "code"
    tests: str = "tests"
    """Column with Python statements: a list of texts, or one text."""
    entry_point: str = "entry_point"
    """Column with the name of the function under test; rows may lack it unless another column is said. So too the next two."""
    stub: str = "code_prompt"
    """Column with the code that the prompt gave to complete."""
    setup: str = "test_setup"
    """Column with statements that run before the program and its tests."""
    timeout_s: int = Field(default=5, ge=1, le=3600)
    memory_mb: int = Field(default=512, ge=64)
    runs: int = Field(default=2, ge=1, le=20)
    container: ContainerSettings | None = None
    """Run in this container, not in bubblewrap."""

    def gold_of(self, row: Row) -> tuple[str, ...]:
        """The row's tests."""
        found = as_tests(row[self.tests])
        text = "\n".join(found or ())
        if not text.strip():
            raise row.error(f"no tests: column {self.tests!r} must hold Python statements, as a text or a list of texts")
        with warnings.catch_warnings(action="ignore"):  # of escapes such as "\d" in somebody's tests
            try:
                ast.parse(text)
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                raise row.error(f"the tests in column {self.tests!r} do not compile: {error}") from error
        for field in ("entry_point", "stub", "setup"):
            if getattr(self, field) != type(self).model_fields[field].default:
                row[getattr(self, field)]
        return (text,)

    def check_machine(self) -> None:
        """Prove the sandbox. Raises SandboxError without one: nothing is run, and nothing should be trained before."""
        self._sandbox()

    def score(self, items: Sequence[Item], texts: Sequence[str]) -> list[Outcome]:
        """Run every program against its tests."""
        columns = {"setup_column": self.setup, "stub_column": self.stub, "entry_point_column": self.entry_point}
        reader = UnitTests(**columns)
        found = [reader.job(_example(item, text)) for item, text in zip(items, texts, strict=True)]
        jobs = {place: job for place, job in enumerate(found) if isinstance(job, Job)}
        verdicts = self._sandbox().run_all(list(jobs.values()), runs=self.runs) if jobs else []
        outcomes = [Outcome(0.0, 0.0, False, None, "no code") for _ in found]
        for (place, _), verdict in zip(jobs.items(), verdicts, strict=True):
            text, code = texts[place], code_of(texts[place])
            passed = float(verdict.passed)
            detail = "flaky" if verdict.flaky else verdict.status
            is_marked = code != text
            outcomes[place] = Outcome(passed * is_marked, passed, verdict.status != "syntax", code, detail)
        return outcomes

    def _sandbox(self) -> Sandbox:
        limits = Limits(cpu_s=self.timeout_s, wall_s=4.0 * self.timeout_s, memory_mb=self.memory_mb)
        try:
            return open_sandbox(limits, Container(**dict(self.container)) if self.container else None)
        except SandboxError as error:
            raise SandboxError(f"task {self.name}: {error}") from error


def _example(item: Item, text: str) -> Example:
    answer: Any = {"role": "assistant", "content": text}
    return Example(messages=[*item.messages, answer], tests=item.gold, extra=item.extra)
