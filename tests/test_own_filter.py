"""A filter of one's own: the page that explains it works as printed, by file, in Python and as an installed package."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from workshop import Outcome, curate, python, record, write_rows

import curate as library
from curate.errors import UsageError
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
