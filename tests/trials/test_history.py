"""How often a test set has judged: noted once per trial, for this user, whatever happens to the file."""

import json
import multiprocessing
from pathlib import Path

import pytest

from curate import progress
from curate.trials.history import components_before, history_path, judged_before, remember


@pytest.fixture(autouse=True)
def _own_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_the_history_lies_where_state_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert history_path() == tmp_path / "state" / "curate" / "trials.jsonl"
    monkeypatch.setenv("XDG_STATE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history_path() == tmp_path / ".local" / "state" / "curate" / "trials.jsonl"


def test_without_a_file_nothing_was_judged() -> None:
    assert judged_before("set", "a") == 0
    assert components_before("set", "c") is None
    assert not history_path().exists()


def test_other_trials_on_the_same_test_set_count() -> None:
    for trial in ("a", "b", "c"):
        remember("set", trial, {})
    remember("other set", "d", {})
    assert [judged_before("set", trial) for trial in ("a", "new")] == [2, 3]
    assert judged_before("other set", "d") == 0


def test_a_trial_that_is_judged_again_counts_once() -> None:
    for word in ("helped", "hurt"):
        remember("set", "a", {"word": word})
    assert len(history_path().read_text().splitlines()) == 1
    assert judged_before("set", "b") == 1


def test_one_trial_on_two_test_sets_counts_for_both() -> None:
    remember("one", "a", {})
    remember("two", "a", {})
    assert judged_before("one", "b") == judged_before("two", "b") == 1


def test_the_latest_trials_variances_are_found() -> None:
    for trial in ("a", "b"):
        remember("set", trial, {"components": {"item": 1}, "conditions": "c"})
    remember("set", "d", {"conditions": "c"})
    remember("set", "e", {"components": {"item": 2}, "conditions": "of another model"})
    found = components_before("set", "c")
    assert found is not None
    assert (found["trial"], found["components"]) == ("b", {"item": 1})


@pytest.mark.parametrize("line", ["", "{", "[1]", "null", '"trial"', '{"test_set": "set"}', '{"test_set": "set", "trial": "x'])
def test_a_broken_line_is_one_entry_lost(line: str) -> None:
    remember("set", "a", {})
    with history_path().open("a") as file:
        file.write(line + "\n")
    remember("set", "b", {})
    assert judged_before("set", "new") == 2


def test_a_line_that_a_crash_cut_off_takes_no_other_with_it() -> None:
    remember("set", "a", {})
    with history_path().open("a") as file:
        file.write('{"test_set": "set", "tri')
    remember("set", "b", {})
    assert judged_before("set", "new") == 2


def test_a_broken_byte_is_one_entry_lost() -> None:
    remember("set", "a", {})
    with history_path().open("ab") as file:
        file.write(b"\xff\n")
    assert judged_before("set", "new") == 1


def test_a_folder_that_cannot_be_written_is_told_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    told: list[str] = []
    monkeypatch.setattr(progress, "note", told.append)
    remember("set", "a", {})
    assert judged_before("set", "b") == 0
    assert len(told) == 1
    assert "cannot be written" in told[0]
    assert "the next trial will not know of this one" in told[0]


def _remember_many(name: str) -> None:
    for number in range(60):
        remember("set", f"{name}-{number}", {"filler": "x" * 500})


def test_two_processes_write_whole_lines() -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_remember_many, args=(name,)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert judged_before("set", "new") == len([json.loads(line) for line in history_path().read_text().splitlines()]) == 120
