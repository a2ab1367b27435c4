"""The commands that publish a run, and what strangers do with it, through the command line alone."""

import json
import os
from pathlib import Path

import pytest
from conftest import HUB_TOKEN as TOKEN
from fake_hub import HubProcess
from workshop import Outcome, curate, finished, recipe_file, some_rows, write_rows

HALF, THIRD, UNPUBLISHED = (
    f"keep: {{field: given.value, {what}, within: [dataset]}}" for what in ("lowest: 50%", "lowest: 30%", "highest: 50%")
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run in `out` and recipes of other cuts."""
    folder = tmp_path_factory.mktemp("place")
    data = write_rows(folder / "rows.jsonl", some_rows(40))
    for name, step in (("half", HALF), ("third", THIRD), ("other", UNPUBLISHED)):
        recipe_file(folder / f"{name}.yaml", [step])
    done = curate("--recipe", folder / "half.yaml", data, "--out", folder / "out", "--json")
    assert done.code == 0, done.err
    return folder


def online(hub: HubProcess, folder: Path, *arguments: str | Path, token: str = TOKEN) -> Outcome:
    """The command line as a user of that Hub."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    quiet = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "HOME": str(home), "NO_PROXY": "127.0.0.1"}
    return finished(*arguments, HF_ENDPOINT=hub.url, HF_TOKEN=token, PYTHONPATH=path_of_filters(folder), **quiet)


def path_of_filters(folder: Path) -> str:
    """Where a process that is started finds the filter `given`."""
    return os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])


def plugin(folder: Path) -> Path:
    """A plug-in file that registers the filter `given`."""
    path = folder / "given_filter.py"
    path.write_text("import workshop  # registers `given`\n")
    return path


def test_a_dry_run_writes_what_would_be_sent_and_sends_nothing(place: Path) -> None:
    done = curate("push", place / "out", "me/rows", "--dry-run", "--json")
    assert done.code == 0, done.err
    names = set(done.json["files"])
    assert {"README.md", "data/train-00000-of-00001.parquet", "scores/train-00000-of-00001.parquet", "curate/lock.json"} <= names
    assert done.json["commit"] is None
    there = {path.relative_to(place / "out" / "publication").as_posix() for path in (place / "out" / "publication").rglob("*.*")}
    assert there == names
    told = curate("push", place / "out", "me/rows", "--dry-run").out
    assert "nothing was sent" in told
    assert "scores/train-00000-of-00001.parquet" in told


def test_a_publication_is_pushed_read_recut_and_reproduced_by_strangers(place: Path, hub: HubProcess, tmp_path: Path) -> None:
    pushed = online(hub, place, "push", place / "out", "me/rows", "--tag", "v1", "--json")
    assert pushed.code == 0, pushed.err
    assert pushed.json["is_new"]
    again = online(hub, place, "push", place / "out", "me/rows")
    assert again.code == 0, again.err
    assert "no commit was made" in again.out
    address = "hf://datasets/me/rows@v1"
    add = ("--plugin", plugin(place))
    same = online(hub, place, "reproduce", address, *add)
    assert same.code == 0, same.out + same.err
    assert "the kept rows follow from recipe and scores" in same.out
    cut = online(hub, place, "select", address, "--recipe", place / "third.yaml", "--out", tmp_path / "cut", "--json", *add)
    assert cut.code == 0, cut.err
    here = curate("select", place / "out", "--recipe", place / "third.yaml", "--json")
    try:
        assert cut.json["kept"] == here.json["kept"] == 12
        difference = online(hub, place, "diff", place / "out", tmp_path / "cut", "--json")
        assert difference.json["is_same"], difference.err
    finally:
        curate("select", place / "out", "--recipe", place / "half.yaml")
    refused = online(hub, place, "select", address, "--recipe", place / "other.yaml", "--out", tmp_path / "no", *add)
    assert refused.code != 0
    assert "--with-rejected" in refused.err
    exported = online(hub, place, "export", address, "--layout", "openai", "--out", tmp_path / "openai", "--json")
    assert exported.json["rows"] == 20, exported.err
    assert TOKEN not in "".join(outcome.out + outcome.err for outcome in (pushed, again, same, cut, refused, exported))


def test_the_recipe_of_a_publication_runs_on_other_rows(place: Path, hub: HubProcess, tmp_path: Path) -> None:
    assert online(hub, place, "push", place / "out", "me/recipe").code == 0
    data = write_rows(tmp_path / "more.jsonl", some_rows(60))
    done = online(
        hub, place, "--recipe", "hf://datasets/me/recipe", data, "--out", tmp_path / "o", "--json", "--plugin", plugin(place)
    )
    assert done.code == 0, done.err
    assert done.json["kept"] == 30
    assert "recipe 'half' of me/recipe at commit" in done.err


def test_the_pipeline_can_end_in_a_push(place: Path, hub: HubProcess, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", some_rows(24))
    ends = ("--push", "me/direct", "--license", "mit", "--public", "--plugin", plugin(place))
    done = online(hub, place, "--recipe", place / "half.yaml", data, "--out", tmp_path / "o", "--json", *ends)
    assert done.code == 0, done.err
    assert done.json["push"]["is_new"]
    assert not hub.state()["repos"]["me/direct"]["private"]


def test_a_token_that_is_not_accepted_is_told_before_the_work(place: Path, hub: HubProcess, tmp_path: Path) -> None:
    ends = ("--out", tmp_path / "o", "--push", "me/direct", "--plugin", plugin(place))
    done = online(hub, place, "--recipe", place / "half.yaml", place / "rows.jsonl", *ends, token="hf_wrong")
    assert done.code == 6
    assert "hf auth login" in done.err
    assert not (tmp_path / "o").exists()


def test_what_is_published_is_not_taken_for_a_run(place: Path) -> None:
    assert curate("push", place / "out", "me/rows", "--dry-run").code == 0
    done = curate("verify", place / "out" / "publication")
    assert done.code == 2
    assert "is a publication" in done.err


def test_a_place_that_takes_no_folder_is_one_line(place: Path) -> None:
    done = curate("--recipe", place / "half.yaml", place / "rows.jsonl", "--out", "/proc/nothing")
    assert done.code == 2
    assert "/proc/nothing: not writable" in done.err


def test_a_public_push_needs_a_licence(place: Path) -> None:
    done = curate("push", place / "out", "me/rows", "--public", "--dry-run")
    assert done.code == 3
    assert "pass it: --license mit" in done.err


def test_options_of_a_push_without_one_are_refused(place: Path) -> None:
    for option in (("--public",), ("--license", "mit"), ("--with-rejected",)):
        done = curate("--recipe", place / "half.yaml", place / "rows.jsonl", "--out", place / "no", *option)
        assert done.code == 2
        assert "--push USER/NAME" in done.err
    assert not (place / "no").exists()


def test_a_report_is_written_where_it_is_asked_for(place: Path, tmp_path: Path) -> None:
    done = curate("report", place / "out", "--output", tmp_path / "r.html", "--json")
    assert done.code == 0, done.err
    assert (tmp_path / "r.html").stat().st_size == done.json["bytes"]
    assert curate("report", place / "out").out.startswith(str(place / "out" / "report.html"))


def test_a_damaged_publication_is_not_reproduced(place: Path, tmp_path: Path) -> None:
    import shutil

    assert curate("push", place / "out", "me/rows", "--dry-run").code == 0
    copy = shutil.copytree(place / "out" / "publication", tmp_path / "p")
    assert curate("reproduce", copy).code == 0
    recipe = copy / "curate" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("50%", "40%"))
    done = curate("reproduce", copy)
    assert done.code == 7
    assert "FAILED" in done.out
    assert json.loads(curate("reproduce", copy, "--json").out)["passed"] is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("select", "nowhere", "--recipe", "clean"), "no such folder"),
        (("select", "{out}", "--recipe", "clean", "--out", "x"), "are for publications"),
        (("reproduce", "nowhere"), "no such folder"),
        (("diff", "{out}", "nowhere"), "holds neither a selection nor a publication"),
        (("export", "nowhere", "--layout", "trl", "--out", "x"), "holds neither a selection nor a publication"),
        (("push", "{out}", "no-slash", "--dry-run"), "USER/NAME"),
        (("report", "{empty}"), "no"),
    ],
)
def test_what_cannot_be_meant_is_one_line(place: Path, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = curate(*(one.format(out=place / "out", empty=tmp_path) for one in arguments))
    assert done.code in (2, 3)
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1
