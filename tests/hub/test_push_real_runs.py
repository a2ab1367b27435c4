"""Publications of real runs: built, pushed, read by others' tools; and 17,000 rows through everything that goes wrong."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_hub import Fault, HubProcess
from hub_publications import (
    REPO,
    Pusher,
    begun,
    environment,
    hashes,
    kill_at_random,
    must_show,
    require_old_or_new,
    require_one_new_commit,
    until,
)
from workshop import recipe_file, some_rows, write_rows

import curate
from curate.pipeline import select_again
from curate.publication import build

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "familiarity" / "gsm8k" / "train.jsonl.gz"
READ = f"""
import itertools, json
from datasets import load_dataset
whole = load_dataset("{REPO}")
split = load_dataset("{REPO}", split="train")
scores = load_dataset("{REPO}", "scores", split="train")
stream = load_dataset("{REPO}", split="train", streaming=True)
first = [json.dumps(row, default=str) for row in itertools.islice(stream, 50)]
print(json.dumps([
    {{name: rows.num_rows for name, rows in whole.items()}},
    split.column_names,
    scores.num_rows,
    sum(scores["kept"]),
    sum(1 for _ in stream),
    first == [json.dumps(split[row], default=str) for row in range(len(first))],
    scores.column_names,
]))
"""


def cut(folder: Path, share: int) -> str:
    """A recipe that keeps the longest of each prompt."""
    steps = [f"keep: {{field: length.words, highest: {share}%, within: [prompt, dataset]}}"]
    return str(recipe_file(folder / f"longest{share}.yaml", steps, filters="{length: {}}"))


def read_back(hub: HubProcess, home: Path) -> Any:
    """What `load_dataset` gives of the repository."""
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", READ], env=environment(hub, home), cwd=home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_run_is_built_pushed_and_read(hub: HubProcess, push: Pusher, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", some_rows(40))
    out = curate.run(cut(tmp_path, 50), data, out=tmp_path / "out").out
    bundle = build(out, tmp_path / "p", license="mit")
    assert push(bundle.folder)["is_new"]
    assert must_show(hub).files == hashes(bundle.folder)
    splits, columns, rows, kept, streamed, is_same, scored = read_back(hub, tmp_path / "home")
    assert (splits, streamed, rows, is_same) == ({"train": kept}, kept, 40, True)
    assert kept == bundle.facts["kept"] == 20
    assert columns[:2] == ["prompt", "completion"]
    assert scored[:9] == ["row", "id", "source", "prompt_key", "row_hash", "characters", "kept", "rejected_by", "margin"]
    # Built again, the bytes are the same, and nothing is to be done.
    assert push(build(out, tmp_path / "again", license="mit").folder)["is_new"] is False


@pytest.fixture(scope="module")
def gsm8k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 17,000 rows."""
    if not GSM8K.is_file():
        pytest.skip("the GSM8K responses of ../shared are not here")
    folder = tmp_path_factory.mktemp("gsm8k")
    return curate.run(cut(folder, 20), GSM8K, out=folder / "out").out


def published(out: Path, folder: Path, share: int) -> Path:
    """The publication of another cut of the run."""
    select_again(out, cut(folder, share))
    return build(out, folder / f"p{share}", license="mit").folder


@pytest.mark.slow
def test_seventeen_thousand_rows_are_pushed_and_read(hub: HubProcess, push: Pusher, gsm8k: Path, tmp_path: Path) -> None:
    folder = published(gsm8k, tmp_path, 50)
    assert push(folder)["is_new"]
    facts = json.loads((folder / "curate" / "publication.json").read_bytes())
    splits, _, rows, kept, streamed, is_same, _ = read_back(hub, tmp_path / "home")
    assert (splits, rows, kept, streamed, is_same) == ({"train": facts["kept"]}, 17_000, facts["kept"], facts["kept"], True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "passes"),
    [
        (Fault("", status=429, headers={"Retry-After": "1"}), True),
        (Fault("", status=500), True),
        (Fault("", drop="before"), True),
        (Fault("", drop="after"), True),
        (Fault("", times=99, status=429), False),
        (Fault("", times=99, status=500), False),
        (Fault("", times=99, drop="before"), False),
        (Fault("", times=99, drop="midway"), True),
    ],
    ids=["429", "500", "before", "after", "429 for ever", "500 for ever", "before for ever", "midway for ever"],
)
def test_seventeen_thousand_rows_through_faults(
    hub: HubProcess, push: Pusher, gsm8k: Path, tmp_path: Path, fault: Fault, passes: bool
) -> None:
    old, new = published(gsm8k, tmp_path, 30), published(gsm8k, tmp_path, 40)
    push(old)
    hub.inject(Fault(**{**fault.__dict__, "route": "POST .*/commit/main"}))
    done = push(new)
    assert bool(done.get("is_new")) is passes
    require_old_or_new(hub, old, new)
    hub.inject()
    assert push(new)["is_new"] is not passes
    require_one_new_commit(hub, new, commits=2)


@pytest.mark.slow
def test_seventeen_thousand_rows_through_twenty_kills(hub: HubProcess, push: Pusher, gsm8k: Path, tmp_path: Path) -> None:
    kill_at_random(hub, push, [published(gsm8k, tmp_path, share) for share in range(20, 62, 2)], seed=3)


@pytest.mark.slow
def test_seventeen_thousand_rows_pushed_twice_at_once(hub: HubProcess, push: Pusher, gsm8k: Path, tmp_path: Path) -> None:
    old, new, other = (published(gsm8k, tmp_path, share) for share in (30, 40, 50))
    push(old)
    hub.set(wait_s=0.05)
    both = [begun(push, new), begun(push, new)]
    assert all("error" not in one.outcome() for one in both)
    require_one_new_commit(hub, new, commits=2)
    hub.inject(Fault("POST .*/commit/main", wait_s=2.0))
    first = begun(push, old)
    until(lambda: hub.pending() == 0)
    assert push(other)["is_new"]
    assert "run the command again to replace it" in first.outcome()["message"]
    require_one_new_commit(hub, other, commits=3)
    assert push(old)["is_new"]
    require_one_new_commit(hub, old, commits=4)
