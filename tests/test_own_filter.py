"""A filter of one's own: the page that explains it works as printed, by file, in Python and as an installed package."""

import math
import pickle
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from workshop import Outcome, curate, python, record, write_rows

import curate as library
from curate.errors import UsageError
from curate.examples.example import UNDECLARED
from curate.filters import base

PAGE = Path(__file__).parents[1] / "docs" / "own-filters.md"
ROWS = [record("p1", "QUIET PLEASE"), record("p2", "well said"), record("p3", "12 + 3")]


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    before = dict(base._REGISTRY)
    yield
    base._REGISTRY.clear()
    base._REGISTRY.update(before)


def block(language: str) -> str:
    """The first code block of a language on the page."""
    if not PAGE.is_file():
        pytest.skip("docs/own-filters.md is not here: the suite runs against an installed package")
    found = re.search(rf"^```{language}\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert found, f"docs/own-filters.md shows no {language}"
    return found[1]


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "shouting.py"
    path.write_text(block("python"))
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Recipe and data."""
    (tmp_path / "quiet.yaml").write_text(block("yaml"))
    return tmp_path / "quiet.yaml", write_rows(tmp_path / "d.jsonl", ROWS)


def test_the_example_is_under_fifteen_lines() -> None:
    assert len([line for line in block("python").splitlines() if line.strip()]) < 15


def run(plugin: Path, files: tuple[Path, Path], out: Path) -> Outcome:
    recipe, data = files
    return curate("--recipe", recipe, data, "--plugin", plugin, "--out", out, "--json")


def test_a_file_named_on_the_command_line_adds_its_filter(tmp_path: Path, plugin: Path, files: tuple[Path, Path]) -> None:
    done = run(plugin, files, tmp_path / "out")
    assert done.code == 0, done.err
    assert (done.json["rows"], done.json["kept"]) == (3, 2)
    assert done.json["unscored"] == {"shouting": {"no letters": 1}}


def test_without_the_file_the_filter_is_unknown(files: tuple[Path, Path]) -> None:
    done = curate("--recipe", files[0], files[1])
    assert done.code == 2
    assert "unknown filter 'shouting'" in done.err


def test_its_data_sheet_is_printed(plugin: Path) -> None:
    done = curate("filters", "shouting", "--plugin", plugin)
    assert "Share of upper-case letters" in done.out
    assert curate("filters", "shouting", "--plugin", plugin, "--json").json[0]["outputs"] == {"ratio": "float64"}


def test_a_changed_file_is_another_filter_and_scores_anew(tmp_path: Path, plugin: Path, files: tuple[Path, Path]) -> None:
    run(plugin, files, tmp_path / "out")
    plugin.write_text(plugin.read_text().replace("str.isupper", "str.islower"))
    assert run(plugin, files, tmp_path / "out").json["kept"] == 2
    assert len(list((tmp_path / "out" / "annotations").iterdir())) == 2


def test_the_same_file_elsewhere_is_the_same_filter(tmp_path: Path, plugin: Path, files: tuple[Path, Path]) -> None:
    run(plugin, files, tmp_path / "out")
    moved = plugin.rename(tmp_path / "other_name.py")
    run(moved, files, tmp_path / "out")
    assert len(list((tmp_path / "out" / "annotations").iterdir())) == 1


def test_a_class_in_python_is_enough(tmp_path: Path, files: tuple[Path, Path]) -> None:
    exec(compile(block("python"), "notebook", "exec"), {"__name__": "notebook"})
    assert library.run(files[0], files[1], out=tmp_path / "out").report.kept == 2


def test_an_installed_package_adds_its_filter(tmp_path: Path, files: tuple[Path, Path]) -> None:
    site = tmp_path / "site"
    (site / "loud-1.0.dist-info").mkdir(parents=True)
    (site / "loud.py").write_text(block("python"))
    (site / "loud-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1.0\n")
    (site / "loud-1.0.dist-info" / "entry_points.txt").write_text("[curate.filters]\nshouting = loud:Shouting\n")
    code = "import sys; sys.argv[0] = 'curate'; from curate.cli import main; main()"
    done = python(code, "--recipe", str(files[0]), str(files[1]), "--out", str(tmp_path / "out"), "--json", PYTHONPATH=str(site))
    assert done.code == 0, done.err
    assert done.json["kept"] == 2


def test_the_packages_version_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    site = tmp_path / "site"
    info = site / "loud-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "loud.py").write_text(block("python"))
    (info / "entry_points.txt").write_text("[curate.filters]\nshouting = loud:Shouting\n")
    code = "import curate, json; print(json.dumps(curate.known_filters()['shouting']().fingerprint()))"
    packages = []
    for version in ("1.0", "1.1"):
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: loud\nVersion: {version}\n")
        packages.append(python(code, PYTHONPATH=str(site)).json["package"])
    assert packages == ["loud==1.0", "loud==1.1"]


def test_shipped_filters_have_no_facts_of_a_source() -> None:
    assert base.source_facts(library.known_filters()["length"]) == {}


# A file that does not load


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import curate\nimport nosuchmodule", "ModuleNotFoundError: No module named 'nosuchmodule' (line 2)"),
        ("x = 1\ndef (", "SyntaxError: invalid syntax (line 2)"),
        ("\n\n1 / 0", "ZeroDivisionError: division by zero (line 3)"),
        ("import sys\nsys.exit()", "SystemExit: no message (line 2)"),
        ("from curate import *\nregister('row')(Filter)", "Filter: 'row' cannot be a filter's name"),
    ],
)
def test_a_file_that_does_not_load_is_one_line_that_says_where(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    done = curate("filters", "--plugin", tmp_path / "mine.py")
    assert done.code == 2
    assert f"--plugin {tmp_path / 'mine.py'}: {words}" in done.err
    assert done.err.count("\n") == 1


# What a class may not be


def define(body: str) -> None:
    source = f"from curate import Filter, register\n@register('mine')\nclass Mine(Filter):\n{textwrap.indent(body, '    ')}"
    exec(compile(source, "notebook", "exec"), {"__name__": "notebook"})


@pytest.mark.parametrize("body", ["outputs = {}", "outputs = {'unscored': 'bool'}", "pass"])
def test_a_filter_must_declare_outputs(body: str) -> None:
    with pytest.raises(UsageError, match="must declare outputs"):
        define(body)


@pytest.mark.parametrize("name", ["Loud", "two words", "a.b", "", "1st"])
def test_a_name_is_a_lower_case_word(name: str) -> None:
    with pytest.raises(UsageError, match="is no name for a filter"):
        library.register(name)(library.Filter)


@pytest.mark.parametrize("name", ["row", "id", "source", "decision", "prompt_key", "messages", "margin", "key", "recipe"])
def test_a_columns_name_is_no_filters_name(name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}' cannot be a filter's name"):
        library.register(name)(library.Filter)


def test_an_output_has_one_of_four_types() -> None:
    with pytest.raises(UsageError, match="'float32' is no type of an output; did you mean 'float64'"):
        define("outputs = {'x': 'float32'}")


def test_a_shipped_filter_is_not_replaced() -> None:
    class Mine(library.Filter):
        """Mine."""

        outputs = {"x": "bool"}  # noqa: RUF012

    with pytest.raises(UsageError, match="filter 'length' is defined twice"):
        library.register("length")(Mine)


def test_a_class_defined_again_replaces_itself() -> None:
    define("outputs = {'x': 'bool'}")
    define("outputs = {'y': 'bool'}")
    assert library.known_filters()["mine"].outputs == {"y": "bool"}


def test_a_filter_that_scores_nothing_is_told_which_method_to_write() -> None:
    define("outputs = {'x': 'bool'}")
    example = library.Example(messages=[{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}])
    with pytest.raises(AssertionError, match="overrides none of score, score_batch and derive"):
        library.known_filters()["mine"]().score(example)


# Lists


LISTS = "outputs = {'all': 'float64[]', 'counts': 'int64[]', 'half': 'float16[]', 'x': 'float64'}"
HELD: dict[str, Any] = {"all": [0.1, None, 3], "counts": [2**60, None], "half": [65504.0, -0.5], "x": 1.0}


@pytest.mark.parametrize("result", [HELD, dict.fromkeys(HELD), {**HELD, "all": [], "counts": [], "half": []}])
def test_lists_as_declared_pass(result: Any) -> None:
    define(LISTS)
    base.validate_scores(library.known_filters()["mine"](), ROW, result)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({**HELD, "all": 0.5}, r"output 'all' is 0.5 \(float\), declared float64\[\]; give a finite value"),
        ({**HELD, "all": (0.5,)}, r"output 'all' is \(0.5,\) \(tuple\)"),
        ({**HELD, "all": [0.5, math.nan]}, "output 'all' is"),
        ({**HELD, "counts": [1.0]}, "output 'counts' is"),
        ({**HELD, "half": [65505.0]}, "output 'half' is"),
        ({**HELD, "x": [1.0]}, "output 'x' is"),
    ],
)
def test_a_list_that_breaks_the_declaration_is_refused(result: Any, words: str) -> None:
    define(LISTS)
    with pytest.raises(UsageError, match=f"^filter 'mine', row 17: .*{words}"):
        base.validate_scores(library.known_filters()["mine"](), ROW, result)


# What a filter may not give

OUTPUTS = "outputs = {'x': 'float64', 'n': 'int64', 'flag': 'bool', 'word': 'string'}"
GOOD: dict[str, Any] = {"x": 0.5, "n": 3, "flag": True, "word": "a"}
ROW = library.Example(messages=[{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}], row=17)


@pytest.mark.parametrize("result", [GOOD, {**GOOD, "x": 1, "word": "é"}, dict.fromkeys(GOOD), library.Unscored("short")])
def test_a_result_as_declared_passes(result: Any) -> None:
    define(OUTPUTS)
    base.validate_scores(library.known_filters()["mine"](), ROW, result)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({**GOOD, "x": math.nan}, "output 'x' is nan"),
        ({**GOOD, "x": -math.inf}, "output 'x' is -inf"),
        ({**GOOD, "x": "high"}, r"output 'x' is 'high' \(str\), declared float64"),
        ({**GOOD, "x": True}, r"output 'x' is True \(bool\)"),
        ({**GOOD, "x": 2**60}, r"output 'x' is 1152921504606846976 \(int\)"),
        ({**GOOD, "n": 3.0}, r"output 'n' is 3.0 \(float\), declared int64"),
        ({**GOOD, "n": 2**63}, "output 'n'"),
        ({**GOOD, "flag": 1}, "output 'flag' is 1"),
        ({**GOOD, "word": "\ud800"}, "output 'word'"),
        ({"x": 0.5}, "declares outputs 'x', 'n', 'flag', 'word', gave 'x'"),
        ({}, "gave none"),
        (None, r"gave nothing \(None\)"),
        (0.5, "gave a float"),
        (library.Unscored(""), "a reason is a short phrase"),
    ],
)
def test_a_result_that_breaks_the_declaration_names_filter_row_and_value(result: Any, words: str) -> None:
    define(OUTPUTS)
    with pytest.raises(UsageError, match=f"^filter 'mine', row 17: .*{words}"):
        base.validate_scores(library.known_filters()["mine"](), ROW, result)


@pytest.mark.parametrize("results", [[], [GOOD], [GOOD] * 3, None, (GOOD for _ in range(2))])
def test_a_batch_has_one_result_per_row(results: Any) -> None:
    define(OUTPUTS)
    mine = library.known_filters()["mine"]()
    base.validate_batch(mine, [ROW, ROW], [GOOD, GOOD])
    with pytest.raises(UsageError, match=r"^filter 'mine': score_batch gave"):
        base.validate_batch(mine, [ROW, ROW], results)


def test_looking_into_columns_that_are_not_declared_is_loud() -> None:
    for look in (lambda e: e["n"], lambda e: e.get("n"), lambda e: "n" in e, dict, list, len, bool):
        with pytest.raises(UsageError, match=r"say reads = \('messages', 'extra'\)"):
            look(UNDECLARED)
    example = library.Example(messages=ROW.messages, extra=UNDECLARED)
    assert pickle.loads(pickle.dumps(example)) == example
    assert repr(UNDECLARED) == "UNDECLARED"
