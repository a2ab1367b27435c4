"""Verdicts: the word follows the interval, the sentence says what it rests on, and a format effect is not a filter's."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.trials.statistics import Components, Contrast
from curate.trials.verdict import Verdict, combine, judge, judge_others


def found(low: float, high: float, *, p_value: float = 0.5, seeds: tuple[int, int] = (5, 5), items: int = 1319) -> Contrast:
    middle, none = (low + high) / 2, Components(0, 0, 0, 0)
    return Contrast(middle, low, high, p_value, (high - low) / 4, 8.0, seeds, items, 0.95, none)


TRAINED, UNTRAINED = found(0.02, 0.08), found(-0.02, 0.03)


def verdict(primary: Contrast, trained: Contrast | None = TRAINED, margin: float = 0.01) -> Verdict:
    return judge(primary, treated="curated", control="random-clean", task="gsm8k-test", margin=margin, trained=trained)


@pytest.mark.parametrize(
    ("low", "high", "trained", "word"),
    [
        (0.011, 0.073, TRAINED, "helped"),
        (-0.073, -0.011, TRAINED, "hurt"),
        (-0.005, 0.02, TRAINED, "no worse"),
        (-0.005, 0.02, None, "no worse"),
        (-0.02, 0.02, TRAINED, "cannot tell"),
        (-0.01, 0.02, TRAINED, "cannot tell"),
        (0.0, 0.02, TRAINED, "no worse"),
        (-0.005, 0.02, UNTRAINED, "not trained enough to judge"),
        (-0.02, 0.02, UNTRAINED, "not trained enough to judge"),
        # Arms that differ show that training did something.
        (0.011, 0.073, UNTRAINED, "helped"),
        (-0.073, -0.011, UNTRAINED, "hurt"),
    ],
)
def test_the_word_follows_the_interval(low: float, high: float, trained: Contrast | None, word: str) -> None:
    assert verdict(found(low, high), trained).word == word


def test_the_sentence_is_fit_for_a_card() -> None:
    assert verdict(found(0.011, 0.073)).sentence == (
        "`curated` scored 4.2 points higher than `random-clean` on gsm8k-test "
        "(95 % interval 1.1 to 7.3; 5 seeds, 1,319 items): the filter helped."
    )
    assert verdict(found(-0.03, 0.01, seeds=(5, 3), items=224)).sentence == (
        "`curated` scored 1.0 points lower than `random-clean` on gsm8k-test "
        "(95 % interval -3.0 to 1.0; 5 and 3 seeds, 224 items): this trial cannot tell."
    )
    assert verdict(found(0.0, 0.0)).sentence.startswith(
        "`curated` scored the same as `random-clean` on gsm8k-test (95 % interval 0.0"
    )
    assert "by the stated margin of 1.0 points." in verdict(found(-0.005, 0.02)).sentence


def test_what_was_not_trained_enough_is_said_once() -> None:
    assert verdict(found(-0.02, 0.02), UNTRAINED).sentence == (
        "`curated` scored the same as `random-clean` on gsm8k-test (95 % interval -2.0 to 2.0; 5 seeds, 1,319 items), "
        "and `random-clean` cannot be told from the untrained model, so this says nothing about the filter."
    )


@pytest.mark.parametrize("low", [0.01, -0.05], ids=["helped", "hurt"])
def test_a_claim_holds_what_weakens_it(low: float) -> None:
    def sentence(control: Contrast | None, treated: Contrast | None, seeds: int = 5) -> str:
        primary = found(low, low + 0.04, seeds=(seeds, seeds))
        return judge(
            primary, treated="a", control="b", task="t", margin=0.01, trained=control, treated_trained=treated
        ).sentence.partition(": the filter ")[2]

    word = "helped" if low > 0 else "hurt"
    assert sentence(UNTRAINED, UNTRAINED) == f"{word}; but neither arm can be told from the untrained model."
    assert sentence(UNTRAINED, TRAINED) == sentence(TRAINED, UNTRAINED) == sentence(None, None) == f"{word}."
    assert sentence(TRAINED, TRAINED, 2) == f"{word}; but with fewer than 3 seeds their spread is hardly known."
    assert sentence(UNTRAINED, UNTRAINED, 2) == (
        f"{word}; but neither arm can be told from the untrained model and with fewer than 3 seeds their spread is hardly known."
    )


def test_a_bound_close_to_zero_shows_its_side() -> None:
    assert "interval 0.03 to 2.0;" in verdict(found(0.0003, 0.02)).sentence


def test_reasons_name_what_limits_the_verdict() -> None:
    assert verdict(found(0.01, 0.02)).reasons == ()
    assert "fewer than 3 seeds" in verdict(found(0.01, 0.02, seeds=(2, 2))).reasons[0]
    assert "was not run" in verdict(found(-0.02, 0.02), None).reasons[0]
    assert "below the untrained model by 5.0 points" in verdict(found(0.01, 0.02), found(-0.08, -0.02)).reasons[0]
    assert "cannot be told from the untrained" in verdict(found(0.01, 0.02), UNTRAINED).reasons[0]


def test_a_negative_margin_is_refused() -> None:
    with pytest.raises(ValueError, match="margin"):
        verdict(found(0, 1), margin=-0.01)


@given(st.floats(-0.2, 0.2), st.floats(0, 0.2), st.floats(0, 0.05))
def test_helped_and_hurt_mirror_each_other(low: float, width: float, margin: float) -> None:
    mirror = {"helped": "hurt", "hurt": "helped"}
    word = verdict(found(low, low + width), margin=margin).word
    mirrored = verdict(found(-low - width, -low), margin=margin).word
    assert (mirror.get(word) == mirrored) or not {word, mirrored} & set(mirror)


HELPED, TOLD_NOTHING = verdict(found(0.01, 0.03)), verdict(found(-0.02, 0.03), None)


def test_agreeing_readings_keep_the_strict_sentence_and_all_reasons() -> None:
    few = verdict(found(0.02, 0.04, seeds=(2, 2)))
    assert combine(HELPED, few) == Verdict("helped", HELPED.sentence, few.reasons)


def test_readings_that_differ_are_a_format_effect() -> None:
    both = combine(HELPED, TOLD_NOTHING)
    assert both.word == "cannot tell"
    assert both.reasons == ("format effect: strict says helped, lenient says cannot tell", *TOLD_NOTHING.reasons)
    assert HELPED.sentence in both.sentence
    assert both.sentence.endswith("this trial cannot tell.")


def test_other_contrasts_are_judged_by_adjusted_p_values() -> None:
    others = {
        "mmlu": found(0.01, 0.03, p_value=0.001),
        "boolq": found(-0.03, -0.01, p_value=0.01),
        # Its own interval excludes zero, but one of four contrasts does so by chance more often than it says.
        "squad": found(0.001, 0.03, p_value=0.04),
        "drop": found(-0.01, 0.03, p_value=0.4),
    }
    judged = judge_others(others)
    assert list(judged) == list(others)
    assert [one.word for one in judged.values()] == ["helped", "hurt", "cannot tell", "cannot tell"]
    assert [one.p_value for one in judged.values()] == pytest.approx([0.004, 0.03, 0.08, 0.4])
    assert judge_others({}) == {}


def test_the_order_of_the_others_does_not_matter() -> None:
    others = {"a": found(0.01, 0.03, p_value=0.01), "b": found(0.01, 0.03, p_value=0.02), "c": found(0, 0, p_value=1.0)}
    expected = judge_others(others)
    for names in itertools.permutations(others):
        assert judge_others({name: others[name] for name in names}) == expected
