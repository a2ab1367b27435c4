"""Near-duplicates: what is called near is near, and hardly anything near is missed."""

import random

import pytest

from curate.diversity.near_duplicates import MOST_MISSED, Match, Shingles, bands, jaccard, near_duplicates, shingles, words_of

SETTINGS = {"n": 3, "permutations": 256, "seed": 1}


def groups(*rows: tuple[str, ...], threshold: float = 0.8) -> list[Match]:
    return [match for _, match in near_duplicates(enumerate(rows), threshold=threshold, **SETTINGS)]


def text(words: list[int]) -> str:
    return " ".join(f"w{word}" for word in words)


def test_jaccard_is_shared_over_all() -> None:
    assert jaccard(shingles("a b c d", 1), shingles("c d e", 1)) == pytest.approx(2 / 5)
    assert jaccard(shingles("a b c", 2), shingles("a b c", 2)) == 1
    assert jaccard(shingles("a", 3), shingles("b", 3)) == 0


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("Two, three!", ["two", "three"]),
        ("数学です", ["数", "学", "で", "す"]),
        ("?!", ["?!"]),
        ("", [""]),
        ("don_t", ["don", "t"]),
    ],
)
def test_words_are_what_is_compared(written: str, words: list[str]) -> None:
    assert words_of(written) == words


def test_a_row_joins_the_first_row_that_it_repeats() -> None:
    base = list(range(60))
    found = groups((text(base),), (text([*base[:59], 99]),), (text(list(range(100, 160))),), (text(base),))
    assert [match.leader for match in found] == [0, 0, 2, 0]
    assert found[0].similarity is None
    assert found[1].similarity == pytest.approx(57 / 59)
    assert found[3].similarity == 1.0


def test_two_answers_to_one_question_are_no_duplicates() -> None:
    question = text(list(range(80)))
    assert [match.leader for match in groups((question, "It is four."), (question, "Nobody knows that."))] == [0, 1]


def test_one_answer_to_two_questions_is_no_duplicate() -> None:
    found = groups((text(list(range(80))), "Yes."), (text(list(range(100, 180))), "Yes."))
    assert [match.leader for match in found] == [0, 1]


def test_small_steps_do_not_chain() -> None:
    rows = [(text(list(range(start, start + 100))),) for start in range(0, 60, 4)]
    found = groups(*rows)
    for place, match in enumerate(found):
        leader = rows[match.leader][0]
        assert jaccard(shingles(rows[place][0], 3), shingles(leader, 3)) >= 0.8
    assert len({match.leader for match in found}) > 3


def test_every_decision_is_that_of_all_pairs() -> None:
    draw = random.Random(0)
    rows: list[tuple[str, ...]] = []
    for _ in range(400):
        if rows and draw.random() < 0.5:
            words = draw.choice(rows)[0].split()
            for _ in range(draw.randrange(1, 8)):
                words[draw.randrange(len(words))] = f"n{draw.randrange(10_000)}"
            rows.append((" ".join(words),))
        else:
            rows.append((text([draw.randrange(500) for _ in range(draw.randrange(20, 90))]),))
    leaders: list[tuple[int, Shingles]] = []
    wrong = 0
    found = groups(*rows)
    for row, (written,) in enumerate(rows):
        mine = shingles(written, 3)
        near = [(jaccard(mine, theirs), -leader) for leader, theirs in leaders if jaccard(mine, theirs) >= 0.8]
        expected = -max(near)[1] if near else row
        wrong += found[row].leader != expected
        if found[row].leader == row:
            leaders.append((row, mine))
    assert sum(match.leader != row for row, match in enumerate(found)) > 30
    assert wrong <= 1  # a pair near the threshold may be missed by its MinHash


def test_thousands_of_copies_cost_no_square(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def counted(one: Shingles, other: Shingles) -> float:
        compared.append(one)
        return jaccard(one, other)

    monkeypatch.setattr("curate.diversity.near_duplicates.jaccard", counted)
    assert {match.leader for match in groups(*[("the same text again and again",)] * 3000)} == {0}
    assert compared == []


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("permutations", [32, 256])
def test_bands_miss_hardly_anything_at_the_threshold(threshold: float, permutations: int) -> None:
    count, length = bands(threshold, permutations)
    assert count * length <= permutations
    assert (1 - threshold**length) ** count <= MOST_MISSED
    assert count >= 2
