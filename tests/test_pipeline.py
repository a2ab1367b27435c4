"""Whole runs: interrupted anywhere and begun again, the folder is byte for byte that of an undisturbed run."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from workshop import curate as command
from workshop import finished, recipe_file, some_rows, start, tree, write_rows

import curate
from curate.errors import InputError, UsageError
from curate.pipeline import annotate_only, default_out
from curate.recipes import load_recipe

SLOW_FILTER = '''
import time
import curate

@curate.register("slow_length")
class SlowLength(curate.Filter):
    """Length of the completion, told after a while."""

    outputs = {"characters": "int64"}

    def score(self, example):
        time.sleep(0.004)
        return {"characters": len(example.completion)}
'''


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """A run of about a second of scoring."""
    (tmp_path / "slow.py").write_text(SLOW_FILTER)
    recipe_file(
        tmp_path / "r.yaml", ["keep: {field: slow_length.characters, lowest: 50%}"], filters="{slow_length: {}, length: {}}"
    )
    sample = curate.__path__[0] + "/reference/sample/train.jsonl"
    options = [
        "--recipe",
        str(tmp_path / "r.yaml"),
        "--plugin",
        str(tmp_path / "slow.py"),
        "--limit",
        "200",
        "--shard-rows",
        "16",
    ]
    return ["run", sample, *options]


def sound(out: Path) -> bool:
    return curate.verify(out).problems == []


def leftovers(out: Path) -> list[Path]:
    return list(out.rglob(".tmp.*"))


def killed_after_parts(arguments: list[str], out: Path, parts: int, number: int) -> int:
    """Start a run and send it a signal once this many parts of annotations are there; returns its exit code."""
    process = start(*arguments, "--out", str(out))
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        if len(list(out.glob("annotations/*/part-*.parquet"))) >= parts:
            break
        time.sleep(0.005)
    process.send_signal(number)
    process.communicate(timeout=120)
    return process.returncode


def test_killed_runs_end_with_the_same_bytes(tmp_path: Path, arguments: list[str]) -> None:
    assert command(*arguments, "--out", tmp_path / "whole").code == 0
    for parts in (1, 7, 16):
        assert killed_after_parts(arguments, tmp_path / "out", parts, signal.SIGKILL) == -signal.SIGKILL
    assert command(*arguments, "--out", tmp_path / "out").code == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert sound(tmp_path / "out")
    assert not leftovers(tmp_path / "out")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_has_its_exit_code_and_goes_on(tmp_path: Path, arguments: list[str], number: int, code: int) -> None:
    assert killed_after_parts(arguments, tmp_path / "out", 3, number) == code
    assert len(list((tmp_path / "out").glob("annotations/*/MANIFEST.json"))) < 2
    again = command(*arguments, "--out", tmp_path / "out")
    assert again.code == 0, again.err
    assert sound(tmp_path / "out")


def kill_at_random(arguments: list[str], out: Path, dice: random.Random, longest_s: float) -> int:
    process = start(*arguments, "--out", str(out))
    try:
        process.wait(dice.uniform(0.05, longest_s))
    except subprocess.TimeoutExpired:
        process.kill()
    process.communicate(timeout=120)
    return process.returncode


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_with_a_model_killed_twenty_times_ends_with_the_same_bytes(tmp_path: Path) -> None:
    arguments = ["--recipe", "familiarity-top50", "--limit", "400", "--shard-rows", "16"]
    begun = time.monotonic()
    assert finished(*arguments, "--out", str(tmp_path / "whole")).code == 0
    longest, dice, kills = time.monotonic() - begun, random.Random(0), 0
    while kills < 20:
        out = tmp_path / f"out{kills}"
        while kill_at_random(arguments, out, dice, longest) != 0:
            kills += 1
            if kills >= 20:
                break
        assert finished(*arguments, "--out", str(out)).code == 0
        assert tree(out) == tree(tmp_path / "whole")
        assert sound(out)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_selection_killed_anywhere_leaves_a_sound_folder(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "d.jsonl", some_rows(3000))
    out, other = str(tmp_path / "out"), ["select", str(tmp_path / "out"), "--recipe", "random50"]
    assert finished("--recipe", "longest50", str(data), "--out", out, "--shard-rows", "8").code == 0
    assert finished(*other).code == 0
    wanted, dice = tree(tmp_path / "out"), random.Random(1)
    for _ in range(15):
        assert finished("select", out, "--recipe", "longest50").code == 0
        begun = start(*other)
        try:
            begun.wait(dice.uniform(0.3, 2.0))
        except subprocess.TimeoutExpired:
            begun.kill()
        begun.communicate()
        assert (tmp_path / "out" / "selection" / "selection.json").is_file() or leftovers(tmp_path / "out")
        assert finished(*other).code == 0
        assert tree(tmp_path / "out") == wanted


def test_a_crash_at_any_commit_is_made_good(tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path / "r.yaml", ["keep: {field: given.value, lowest: 50%}"])
    data = write_rows(tmp_path / "d.jsonl", some_rows(12))
    curate.run(recipe, data, out=tmp_path / "whole", shard_rows=8)
    wanted = tree(tmp_path / "whole")
    points = 0
    while True:
        out = tmp_path / f"out{points}"
        if not crashes(recipe, data, out, points):
            break
        curate.run(recipe, data, out=out, shard_rows=8)
        assert tree(out) == wanted, f"crash at commit {points}"
        points += 1
    assert points > 20


class Crash(BaseException):
    """The process ends here: nothing in `curate` catches it, and a process for each try would take minutes."""


def crashes(recipe: Path, data: Path, out: Path, after: int) -> bool:
    """Whether a run was ended at its nth sync; each commit has one before its rename and one after."""
    real, left = os.fsync, [after]

    def crash(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Crash
        real(handle)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", crash)
        try:
            curate.run(recipe, data, out=out, shard_rows=8)
        except Crash:
            return True
    return False


# What a run takes


def test_the_packaged_sample_runs_with_the_packaged_model(tmp_path: Path) -> None:
    result = curate.run("familiarity-top50", out=tmp_path / "out", limit=64)
    assert result.report.rows == 64
    assert 0 < result.report.kept < 64
    assert result.report.ranked_by == "perplexity.content_nll"


def test_rows_may_be_a_list(tmp_path: Path) -> None:
    assert curate.run("longest50", some_rows(12), out=tmp_path / "out").report.kept == 6


def test_a_data_set_object_may_be_read(tmp_path: Path) -> None:
    from datasets import Dataset

    rows = [dict(row) for row in some_rows(12)]
    assert curate.run("longest50", Dataset.from_list(rows), out=tmp_path / "out").report.kept == 6


def test_a_run_that_is_complete_reads_and_scores_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_file(tmp_path / "r.yaml", ["keep: {field: given.value, lowest: 50%}"])
    data = write_rows(tmp_path / "d.jsonl", some_rows(20))
    curate.run(recipe, data, out=tmp_path / "out")
    before = tree(tmp_path / "out")
    monkeypatch.setattr("workshop.Given.score", None)
    monkeypatch.setattr("curate.rows._Writer.run", None)
    curate.run(recipe, data, out=tmp_path / "out")
    assert tree(tmp_path / "out") == before


def test_a_model_that_is_asked_for_is_checked_before_rows_are_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--model"):
        annotate_only("familiarity-top50", tmp_path / "missing.jsonl", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_foreign_folder_is_never_written_to(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not a run's of curate"):
        curate.run("longest50", some_rows(4), out=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_input_that_changed_is_refused_whole(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "d.jsonl", some_rows(20))
    curate.run("longest50", data, out=tmp_path / "out")
    before = tree(tmp_path / "out")
    write_rows(data, some_rows(21))
    with pytest.raises(InputError, match="was begun with other data"):
        curate.run("longest50", data, out=tmp_path / "out")
    assert tree(tmp_path / "out") == before


def test_input_of_the_same_size_and_time_is_refused_too(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "d.jsonl", some_rows(20))
    facts = data.stat()
    curate.run("longest50", data, out=tmp_path / "out")
    data.write_bytes(data.read_bytes().replace(b"Sure", b"Yeah", 1))
    os.utime(data, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    with pytest.raises(InputError, match="was begun with other data"):
        curate.run("longest50", data, out=tmp_path / "out")


def test_a_moved_folder_and_moved_data_go_on(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "d.jsonl", some_rows(20))
    curate.run("longest50", data, out=tmp_path / "out")
    (tmp_path / "moved").mkdir()
    before = tree((tmp_path / "out").rename(tmp_path / "moved" / "out"))
    curate.run("longest50", data.rename(tmp_path / "moved" / "d.jsonl"), out=tmp_path / "moved" / "out")
    assert tree(tmp_path / "moved" / "out") == before


def test_no_path_of_this_machine_is_committed(tmp_path: Path, tiny_model_dir: Path) -> None:
    data = write_rows(tmp_path / "d.jsonl", some_rows(12))
    curate.run("longest50", data, out=tmp_path / "out")
    for path in (tmp_path / "out").rglob("*.json"):
        assert str(tmp_path) not in path.read_text("utf-8"), path


def test_the_surroundings_change_no_byte(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "d.jsonl", some_rows(20))
    curate.run("longest50", data, out=tmp_path / "here")
    there = {"PYTHONHASHSEED": "1", "TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert finished("--recipe", "longest50", str(data), "--out", str(tmp_path / "there"), **there).code == 0
    assert tree(tmp_path / "there") == tree(tmp_path / "here")


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("train.jsonl", "train"),
        ("a/b/train.jsonl.gz", "train"),
        ("org/name", "name"),
        ("org/name:config", "name-config"),
        ("data/", "data"),
        ("*.jsonl", "data"),
        ("../..", "data"),
        ("x y.csv", "x-y"),
    ],
)
def test_the_default_folder_is_called_after_the_data(name: str, folder: str) -> None:
    assert default_out(name) == Path("curated") / folder


def test_every_shipped_text_recipe_runs(tmp_path: Path) -> None:
    # `predicted-bleu-top50` needs references: tests/recipes/test_running_recipes.py has its refusal.
    for name in curate.shipped_recipes():
        if not load_recipe(name).needs_model and name != "predicted-bleu-top50":
            assert curate.run(name, some_rows(24), out=tmp_path / name).report.kept > 0


def test_the_second_of_two_runs_in_one_folder_changes_nothing(tmp_path: Path, arguments: list[str]) -> None:
    first = start(*arguments, "--out", str(tmp_path / "out"))
    until = time.monotonic() + 60
    while not list((tmp_path / "out").glob("annotations/*/part-*.json")) and time.monotonic() < until:
        time.sleep(0.01)
    second = command("select", tmp_path / "out", "--recipe", "longest50")
    first.communicate(timeout=120)
    assert (first.returncode, second.code) == (0, 2)
    assert sound(tmp_path / "out")
