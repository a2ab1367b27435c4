"""The `unit_tests` filter: reading code out of completions, verdicts on real rows, and refusing where nothing isolates."""

import gzip
import json
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from workshop import curate, recipe_file, write_rows

from curate.errors import SandboxError, UsageError
from curate.examples import Example
from curate.filters import UnitTests, Unscored, build_filter
from curate.filters.unit_tests import code_of, programs
from curate.sandbox import levels, open_sandbox

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "familiarity" / "humaneval" / "train.jsonl.gz"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the labelled rows (../shared/data/familiarity) are not here")


@pytest.fixture(scope="module")
def is_isolated() -> None:
    try:
        UnitTests().check_machine()
    except SandboxError as error:
        pytest.skip(f"no sandbox on this machine: {error}")


@pytest.fixture
def no_bwrap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without bubblewrap."""
    monkeypatch.setattr(levels, "system_program", lambda name: None)
    open_sandbox.cache_clear()
    monkeypatch.setattr("curate.filters.unit_tests.open_sandbox", open_sandbox)


def example(response: str, tests: list[str] | None, *, row: int = 0, **extra: Any) -> Example:
    messages: list[Any] = [{"role": "user", "content": "Write f."}, {"role": "assistant", "content": response}]
    return Example(messages=messages, row=row, tests=tests, extra=extra)


def status(response: str, tests: list[str], **extra: Any) -> object:
    result = UnitTests().score(example(response, tests, **extra))
    assert not isinstance(result, Unscored)
    assert result["passed"] is (result["status"] == "passed" and not result["flaky"])
    return result["status"]


@pytest.mark.parametrize(
    ("completion", "code"),
    [
        ("def f(): pass", "def f(): pass"),
        ("Thoughts.\nFinal Answer:\n    return 1", "\n    return 1"),
        ("FINAL_ANSWER: x = 1\nFinal Answer:\nx = 2", "\nx = 2"),
        ("**Final Answer:**\nx = 3", "\nx = 3"),
        ("Here:\n```python\nx = 1\n```\nor\n```\nx = 2\n```\nDone.", "x = 2\n"),
        ("```python\nx = 1\n```\n```bash\npip install x\n```", "x = 1\n"),
        ("```python\nx = 1", "x = 1"),
        ("Final Answer:\n```py\nx = 1\n```", "x = 1\n"),
        ("```json\n{}\n```", "```json\n{}\n```"),
        ("", ""),
    ],
)
def test_code_is_found(completion: str, code: str) -> None:
    assert code_of(completion) == code


@pytest.mark.parametrize("text", ["`" * 300_000, "```\n" * 100_000, "final answer:" * 50_000, "final answer" + " " * 300_000])
def test_reading_code_is_linear(text: str) -> None:
    begin = time.process_time()
    code_of(text)
    assert time.process_time() - begin < 2


def test_a_bare_body_completes_its_stub() -> None:
    stub = "import math\ndef f(x):\n    '''Root.'''\n"
    assert programs("    return math.sqrt(x)", stub)[0].endswith("'''Root.'''\n\n    return math.sqrt(x)")
    assert programs("return 1", "") == ["return 1"]


@pytest.mark.usefixtures("is_isolated")
@pytest.mark.parametrize(
    ("response", "ends"),
    [
        ("    return x * x", "passed"),
        ("return x * x", "passed"),
        ("def f(x):\n    return helper(x) * x", "passed"),
        ("Sure!\n```python\ndef f(x: List[int]):\n    return x * x\n```", "passed"),
        ("def f(x):\n    return x", "failed"),
        ("def g(x):\n    return x * x", "failed"),
        ("I cannot.", "syntax"),
        ("   ", "no_code"),
        ("import os; os._exit(0)", "exited"),
    ],
)
def test_code_runs_with_the_stub_of_its_prompt(response: str, ends: str) -> None:
    stub = "from typing import List\ndef helper(x):\n    return x\ndef f(x):\n    '''Square.'''\n"
    tests = ["def check(candidate):\n    assert candidate(3) == 9"]
    assert status(response, tests, code_prompt=stub, entry_point="f") == ends


@pytest.mark.usefixtures("is_isolated")
def test_plain_asserts_and_setup_lines_work_without_stub() -> None:
    assert status("def f(x):\n    return math.floor(x)", ["assert f(1.5) == 1"], test_setup=["import math"]) == "passed"
    assert status("def f(x):\n    return x", ["assert f(1) == 1", "assert f(2) == 3"]) == "failed"


@pytest.mark.usefixtures("is_isolated")
def test_the_same_rows_give_the_same_scores_in_any_batch() -> None:
    code = [
        "def f(x):\n    return x",
        "def f(x):\n    return 2",
        "import random\ndef f(x):\n    return random.choice([1, 2])",
        "x =",
    ]
    rows = [example(text, ["assert f(1) == 1"], row=row) for row, text in enumerate(code)]
    together = UnitTests().score_batch(rows)
    assert together == [UnitTests().score(row) for row in rows]
    assert together == UnitTests().score_batch(rows)


def test_rows_without_tests_and_huge_ones_are_unscored_and_need_no_sandbox(no_bwrap: None) -> None:
    assert UnitTests().score(example("x = 1", None)) == Unscored("no tests")
    assert UnitTests().score(example("x = 1", [" "])) == Unscored("no tests")
    assert UnitTests().score(example("x" * 1_000_001, ["assert f()"])) == Unscored("too long")


def test_without_a_sandbox_nothing_runs(no_bwrap: None) -> None:
    filter_ = UnitTests()
    for attempt in (filter_.check_machine, filter_.freeze, lambda: filter_.score(example("x = 1", ["assert x == 1"]))):
        with pytest.raises(SandboxError, match="install bubblewrap"):
            attempt()


def test_null_leaves_rows_unscored_and_says_so_first(no_bwrap: None) -> None:
    filter_ = UnitTests(without_sandbox=None)
    assert "install bubblewrap" in filter_.check_machine()[0]
    assert filter_.score(example("x = 1", ["assert x == 1"])) == Unscored("no_sandbox")
    assert filter_.fingerprint()["sandbox"] == "none"


@pytest.mark.usefixtures("is_isolated")
def test_where_it_runs_is_recorded_and_changes_no_fingerprint() -> None:
    assert UnitTests().freeze()["sandbox"] == "bwrap"
    assert UnitTests(without_sandbox=None).fingerprint() == UnitTests().fingerprint()
    assert UnitTests(timeout_s=7).fingerprint() != UnitTests().fingerprint()


def test_a_container_is_named_in_full() -> None:
    with pytest.raises(UsageError, match="image"):
        build_filter("unit_tests", {"container": {"engine": "docker"}}, where="r")
    with pytest.raises(UsageError, match="without_sandbox"):
        build_filter("unit_tests", {"without_sandbox": "run"}, where="r")


ROWS: list[Mapping[str, Any]] = [
    {"prompt": "Square.", "response": "def f(x):\n    return x * x", "tests": ["assert f(3) == 9"]},
    {"prompt": "Square.", "response": "def f(x):\n    return x", "tests": ["assert f(3) == 9"]},
    {"prompt": "Square.", "response": "import sys; sys.exit(0)", "tests": ["assert f(3) == 9"]},
    {"prompt": "Hello.", "response": "Hi.", "tests": None},
]
STEPS = ["drop: {field: unit_tests.passed, is: false}"]


def test_a_run_is_refused_with_exit_code_5_within_two_seconds(no_bwrap: None, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", ROWS)
    # A model that is not there would be a complaint of its own: the sandbox comes before any model.
    recipe = recipe_file(tmp_path / "r.yaml", STEPS, filters="{perplexity: {model: target}, unit_tests: {}}")
    begin = time.monotonic()
    done = curate("--recipe", recipe, data, "--model", tmp_path / "no-model", "--out", tmp_path / "out")
    assert time.monotonic() - begin < 2
    assert done.code == 5
    assert "install bubblewrap" in done.err
    assert not (tmp_path / "out").exists()


def test_a_run_with_null_says_so_and_scores_nothing(no_bwrap: None, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", ROWS)
    recipe = recipe_file(tmp_path / "r.yaml", STEPS, filters="{unit_tests: {without_sandbox: null}}")
    done = curate("--recipe", recipe, data, "--out", tmp_path / "out")
    assert done.code == 0
    assert "every row stays unscored (no_sandbox)" in done.err


@pytest.mark.usefixtures("is_isolated")
def test_a_run_drops_what_fails(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", ROWS)
    done = curate(
        "--recipe", recipe_file(tmp_path / "r.yaml", STEPS, filters="{unit_tests: {}}"), data, "--out", tmp_path / "out"
    )
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out" / "selection" / "selection.json").read_text(encoding="utf-8"))
    assert report["report"]["kept"] == 2


def humaneval(rows: int | None = None) -> list[dict[str, Any]]:
    with gzip.open(DATA, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in islice(lines, rows)]


def disagreements(rows: list[dict[str, Any]]) -> dict[tuple[str, str], object]:
    """Rows whose verdict is not their label."""
    columns = ("code_prompt", "entry_point", "test_setup")
    given = [
        example(row["response"], row["tests"], row=place, **{name: row.get(name) for name in columns})
        for place, row in enumerate(rows)
    ]
    found: dict[tuple[str, str], object] = {}
    for row, result in zip(rows, UnitTests().score_batch(given), strict=True):
        assert not isinstance(result, Unscored)
        if result["passed"] is not row["correct"]:
            found[row["id"], row["source"]] = result["status"]
    return found


@needs_data
@pytest.mark.usefixtures("is_isolated")
def test_the_first_rows_of_humaneval_get_their_labels() -> None:
    assert disagreements(humaneval(70)) == {}


@pytest.mark.slow
@needs_data
@pytest.mark.usefixtures("is_isolated")
def test_all_of_humaneval_gets_its_labels_but_one_row() -> None:
    # 115's response calls math.ceil; only the stub's own function imports math, so that the code does raise NameError.
    assert disagreements(humaneval()) == {("HumanEval/115", "llama-minimum-change"): "error"}
