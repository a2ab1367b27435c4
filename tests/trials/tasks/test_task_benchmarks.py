"""Tasks over real test sets: their own reference answers are right."""

import gzip
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from workshop import write_rows

from curate.errors import InputError, SandboxError
from curate.trials.tasks import Generation, Items, Outcome, Task, aggregate, check_machine, load_task, score, score_choices

DATA = Path(__file__).parents[3].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.exists(), reason="the real test sets (../shared/data) are not here")
ECQA = "familiarity/ecqa/test.jsonl.gz"


def task(kind: str, data: str, **settings: Any) -> Task:
    return load_task({"name": "real", "kind": kind, "data": data, **settings}, folder=DATA)


def answered(task: Task, items: Items, column: str = "reference") -> list[Outcome]:
    return score(task, items, generations(items, column))


def generations(items: Items, column: str) -> list[Generation]:
    return [Generation(item.extra[column], 1, False) for item in items]


@pytest.mark.parametrize(("data", "count"), [("familiarity/gsm8k/test.jsonl.gz", 1319), (ECQA, 2194)])
def test_every_reference_answer_is_right_by_both_readers(data: str, count: int) -> None:
    one = task("answer", data)
    items = one.items()
    assert (len(items), items.duplicates) == (count, 0)
    outcomes = answered(one, items)
    assert [item.place for item, found in zip(items, outcomes, strict=True) if (found.strict, found.lenient) != (1, 1)] == []


def test_ecqa_is_a_choice_counted_from_one() -> None:
    with pytest.raises(InputError, match="counted_from: 1"):
        task("choice", ECQA, choices="options").items()
    one = task("choice", ECQA, choices="options", counted_from=1)
    items = one.items()
    # Options as likely as they are placed: right where gold is the last.
    outcomes = score_choices(one, items, [[(place - 9.0, 1) for place in range(5)] for _ in items])
    wanted = [item.options[4] == item.options[item.right or 0] for item in items]
    assert [found.strict == 1 for found in outcomes] == wanted
    assert 0.15 < sum(wanted) / len(wanted) < 0.25


def test_canonical_solutions_of_humaneval_pass() -> None:
    one = task("code", "familiarity/humaneval/test.jsonl.gz", limit=8, shuffle_seed=0)
    try:
        check_machine(one)
    except SandboxError as error:
        pytest.skip(f"no sandbox on this machine: {error}")
    assert [(found.strict, found.detail) for found in answered(one, one.items())] == [(1, "passed")] * 8


def test_human_answers_of_squad_are_accepted() -> None:
    prompt = "{context}\n\nQuestion: {question}\nAnswer:"
    one = task("squad", "regurgitative/qa/squad_v1.1_excerpt.jsonl.gz", prompt=prompt, gold="reference", stop=["\n"])
    items = one.items()
    assert (len(items), items.duplicates) == (1071, 8)
    assert aggregate(one, items, generations(items, "response")) == {"em": 1, "f1": 1}


def test_translations_of_wmt23_are_scored_as_a_whole(tmp_path: Path) -> None:
    with gzip.open(DATA / "regurgitative/translation/wmt23.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = (json.loads(line) for line in lines)
        system = (row for row in rows if row["source"] == "ONLINE-A" and row["lang_pair"] == "de-en")
        write_rows(tmp_path / "de-en.jsonl", islice(system, 50))
    one = task("translation", str(tmp_path / "de-en.jsonl"), prompt="Translate into English: {source_text}", target="en")
    items = one.items()
    outcomes = answered(one, items, "response")
    assert 0.5 < sum(found.strict for found in outcomes) / len(outcomes) < 0.9
    assert {name: 30 < value < 90 for name, value in aggregate(one, items, generations(items, "response")).items()} == {
        "bleu": True,
        "chrf": True,
    }
