"""What is held out, what a trainer would drop, and which test items stand in the training rows."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from trial_folders import MODEL
from workshop import Record, record, write_rows

from curate.diversity.overlap import COMMON, ItemIndex
from curate.errors import InputError
from curate.examples import load_examples
from curate.filters import Likelihood
from curate.rows import RowStore, commit_rows
from curate.trials.pool import TEST, TRAIN, VALIDATION, Pool, hold_out, make_pool, overlap

WORDS = [
    "ash",
    "bay",
    "cob",
    "dew",
    "elm",
    "fig",
    "gum",
    "hop",
    "ivy",
    "jay",
    "kit",
    "log",
    "map",
    "nut",
    "oak",
    "pea",
    "rye",
    "sap",
    "tea",
    "urn",
    "vat",
    "wax",
    "yak",
    "zip",
]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)  # many small files, and no power is lost here


def prompt(number: int) -> str:
    """A prompt that shares no three words in a row with any other."""
    return " ".join(WORDS[number * step % 23] + str(number) for step in (1, 3, 5, 7, 11, 13))


def asked(*prompts: str, answers: int = 1) -> list[Record]:
    return [record(text, f"answer {at} to it") for text in prompts for at in range(answers)]


def store(folder: Path, rows: Sequence[Record]) -> RowStore:
    folder.mkdir(exist_ok=True)
    columns = {"group": "segment"} if "segment" in rows[0] else None
    return commit_rows(load_examples(write_rows(folder / "rows.jsonl", rows), columns=columns), folder / "rows")


def parts(folder: Path, rows: Sequence[Record], *, validation: float = 0.1, test: float = 0.2) -> dict[str, int]:
    """Part by prompt; every prompt's rows are in one."""
    stored = store(folder, rows)
    found = hold_out(stored, validation=validation, test=test)
    by_prompt: dict[str, set[int]] = {}
    for example in stored:
        by_prompt.setdefault(example.prompt_text, set()).add(int(found[example.row]))
    assert all(len(sides) == 1 for sides in by_prompt.values())
    return {text: sides.pop() for text, sides in by_prompt.items()}


def test_shares_are_of_prompts(tmp_path: Path) -> None:
    rows = [row for at in range(50) for row in asked(prompt(at), answers=1 + at % 3)]
    found = list(parts(tmp_path, rows).values())
    assert [found.count(part) for part in (TRAIN, VALIDATION, TEST)] == [35, 5, 10]


def test_prompts_that_nearly_repeat_each_other_stay_on_one_side(tmp_path: Path) -> None:
    long = [" ".join(f"{word}{at}" for word in WORDS * 2) for at in range(30)]
    rows = asked(*long, *(f"{text} please" for text in long))
    found = parts(tmp_path, rows, test=0.4)
    assert all(found[text] == found[f"{text} please"] for text in long)
    assert set(found.values()) == {TRAIN, VALIDATION, TEST}


def test_case_and_punctuation_make_no_other_prompt(tmp_path: Path) -> None:
    rows = asked(*(prompt(at) for at in range(20)), *(f"{prompt(at).upper()}?!" for at in range(20)))
    found = parts(tmp_path, rows, test=0.5)
    assert all(found[prompt(at)] == found[f"{prompt(at).upper()}?!"] for at in range(20))


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    rows = asked(*(prompt(at) for at in range(60)), answers=2)
    assert parts(tmp_path / "one", rows) == parts(tmp_path / "other", rows[::-1])


def test_the_order_of_rows_does_not_matter_where_prompts_repeat_each_other(tmp_path: Path) -> None:
    rows = asked(*(text for at in range(60) for text in (prompt(at), prompt(at).upper() + "!")))
    assert parts(tmp_path / "one", rows) == parts(tmp_path / "other", rows[::-1])


def test_a_prompt_that_two_groups_share_stays_on_one_side(tmp_path: Path) -> None:
    rows = [
        row
        for at in range(20)
        for row in (
            record(prompt(at), "a", segment=f"a{at}"),
            record(prompt(at + 30), "b", segment=f"a{at}"),
            record(prompt(at + 30), "c", segment=f"b{at}"),
        )
    ]
    assert parts(tmp_path, rows, test=0.5)


def test_added_prompts_move_few_of_the_others(tmp_path: Path) -> None:
    before = parts(tmp_path / "one", asked(*(prompt(at) for at in range(100))))
    after = parts(tmp_path / "other", asked(*(prompt(at) for at in range(105))))
    assert sum(before[text] != after[text] for text in before) <= 5


def test_what_is_answered_does_not_matter(tmp_path: Path) -> None:
    prompts = [prompt(at) for at in range(40)]
    one, other = asked(*prompts), [record(text, "something else") for text in prompts]
    assert parts(tmp_path / "one", one) == parts(tmp_path / "other", other)


def test_a_share_of_zero_holds_nothing_out(tmp_path: Path) -> None:
    found = parts(tmp_path, asked(*(prompt(at) for at in range(10))), validation=0.0, test=0.0)
    assert set(found.values()) == {TRAIN}


@pytest.mark.parametrize(
    ("validation", "test", "complaint"),
    [
        (0.0, 0.01, r"trial: 1 % of 10 different prompts is none for test; ask for a larger share"),
        (0.01, 0.2, r"trial: 1 % of 10 different prompts is none for validation"),
        (0.5, 0.5, r"trial: of 10 different prompts none is left to train on; hold out less"),
    ],
)
def test_a_share_that_leaves_a_side_empty_is_an_error(tmp_path: Path, validation: float, test: float, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        parts(tmp_path, asked(*(prompt(at) for at in range(10))), validation=validation, test=test)


def pool(folder: Path, rows: Sequence[Record], *, test: float = 0.2, **settings: object) -> Pool:
    return make_pool(store(folder, rows), Likelihood(**{**MODEL, **settings}), validation=0.0, test=test)


def test_tokens_are_those_of_the_completion_and_its_end(tmp_path: Path) -> None:
    found = pool(tmp_path, [record(prompt(at), "a" * (at + 1)) for at in range(6)])
    assert (found.tokens > 0).all()
    shorter = pool(tmp_path / "longer prompts", [record(prompt(at) * 3, "a" * (at + 1)) for at in range(6)])
    assert shorter.tokens.tolist() == found.tokens.tolist()
    assert found.tokens[5] > found.tokens[0]
    assert not found.truncated.any()


def test_rows_that_the_trainer_would_drop_are_counted_by_reason_and_trained_on_by_nobody(tmp_path: Path) -> None:
    rows = [record(prompt(at) * (200 if at in (3, 4) else 1), "yes") for at in range(10)]
    found = pool(tmp_path, rows, test=0.0, max_length=64)
    assert np.flatnonzero(~found.trainable).tolist() == [3, 4]
    assert list(found.unusable.values()) == [2]


def test_held_out_rows_are_no_unusable_rows(tmp_path: Path) -> None:
    rows = [record(prompt(at) * 200, "yes") if at % 2 else record(prompt(at), "yes") for at in range(20)]
    found = pool(tmp_path, rows, test=0.5, max_length=64)
    assert sum(found.unusable.values()) == sum((found.part == TRAIN) & (found.tokens == 0)) < 10


def test_rows_that_the_trainer_cuts_off_are_marked(tmp_path: Path) -> None:
    rows = [record(prompt(at), "word " * (200 if at == 2 else 2)) for at in range(6)]
    found = pool(tmp_path, rows, test=0.0, max_length=128)
    assert np.flatnonzero(found.truncated).tolist() == [2]
    assert found.trainable.all()


QUESTION = "If seven red foxes jump over nine lazy dogs in two days how many jumps are there"


@pytest.fixture(scope="module")
def trained_on(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Two rows whose prompt is a test question, one whose answer holds another, and others; all to train on."""
    rows = [
        record(QUESTION, "many"),
        record(QUESTION, "a few"),
        record("Tell me a riddle.", "Well. The quick brown owl reads eleven old letters by the light of one candle. Right?"),
        record("  what is love?", "x"),
        *asked(*(prompt(at) for at in range(6))),
    ]
    return pool(tmp_path_factory.mktemp("pool"), rows, test=0.0)


OWL = "The quick brown owl reads eleven old letters by the light of one candle"


def test_an_exact_copy_of_a_test_question_is_found_in_prompts_and_answers(trained_on: Pool) -> None:
    found = overlap(trained_on, "t", [QUESTION, OWL, "Something that nobody wrote anywhere in the rows at all, I think"])
    assert (found.items, found.found, found.share) == (3, 2, 2 / 3)
    assert found.examples == ((QUESTION, 0, 1.0), (OWL, 2, 1.0))


def test_overlap_counts_items_and_not_rows(trained_on: Pool) -> None:
    assert overlap(trained_on, "t", [QUESTION]).found == 1
    assert overlap(trained_on, "t", [QUESTION, f"{QUESTION}, then?"]).found == 2


def test_case_and_punctuation_hide_no_copy(trained_on: Pool) -> None:
    assert overlap(trained_on, "t", [QUESTION.upper().replace(" ", ", ")]).found == 1


@pytest.mark.parametrize(("words", "found"), [(10, 0), (14, 1)])
def test_more_than_half_of_a_question_has_to_stand_there(trained_on: Pool, words: int, found: int) -> None:
    item = " ".join([*QUESTION.split()[:words], "and", *(f"n{at}" for at in range(3))])
    assert overlap(trained_on, "t", [item]).found == found


def test_a_short_question_has_to_be_a_whole_prompt(trained_on: Pool) -> None:
    assert overlap(trained_on, "t", ["What is love"]).found == 1
    assert overlap(trained_on, "t", ["seven red foxes"]).found == 0


def test_copies_of_a_short_question_are_all_found(trained_on: Pool) -> None:
    assert overlap(trained_on, "t", ["What is love", "what is love?"]).found == 2


def test_every_prompt_of_a_group_is_looked_up(tmp_path: Path) -> None:
    rows = [record(prompt(0), "a", segment="g"), record(QUESTION, "b", segment="g"), record(prompt(1), "c", segment="h")]
    assert overlap(pool(tmp_path, rows, test=0.0), "t", [QUESTION]).found == 1


def test_held_out_rows_do_not_count(trained_on: Pool) -> None:
    held_out = replace(trained_on, part=np.full(trained_on.rows.count, TEST, dtype=np.int8))
    assert overlap(held_out, "t", [QUESTION]).found == 0


def test_a_frame_that_most_items_share_tells_nothing_of_any() -> None:
    frame = "Answer the following question with one of the options that are given below"
    items = [(str(at), f"{frame} {prompt(at)} {prompt(at + 30)}") for at in range(COMMON + 1)]
    index = ItemIndex.build(items, 8)
    shares = index.overlaps(f"{frame} {prompt(99)}", [f"{frame} {prompt(99)}"])[1]
    assert not len(shares)
    assert index.overlaps("", [items[3][1]])[1].max() == 1.0


def test_a_frame_of_few_items_counts_as_theirs() -> None:
    frame = "Answer the following question with one of the options that are given below"
    index = ItemIndex.build([(str(at), f"{frame} {prompt(at)}") for at in range(COMMON)], 8)
    hits, shares = index.overlaps("", [frame])
    assert len(hits) == COMMON
    assert shares.max() < 1


def test_items_that_are_nothing_but_a_frame_are_still_found() -> None:
    index = ItemIndex.build([(str(at), QUESTION) for at in range(COMMON + 5)], 8)
    assert len(index.overlaps("", [QUESTION])[0]) == COMMON + 5
