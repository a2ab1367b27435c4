"""Predicted BLEU: what is measured is sacrebleu's, what is predicted has not seen its prompt."""

import random

import pytest
from sacrebleu import sentence_bleu

from curate.examples import Example
from curate.filters import PredictedBleu, Unscored

WORDS = [f"word{number}" for number in range(60)]


def corpus(prompts: int = 60) -> list[Example]:
    """Per prompt a faithful answer, and one of which the second half is noise, which also ends in `etc`."""
    draw = random.Random(0)
    rows: list[Example] = []
    for number in range(prompts):
        reference = draw.choices(WORDS, k=16)
        worse = [*reference[:8], *draw.choices(WORDS, k=8), "etc"]
        for text, source in ((reference, "good"), (worse, "bad")):
            turns = [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": " ".join(text)}]
            rows.append(Example(messages=turns, row=len(rows), source=source, gold=" ".join(reference)))  # type: ignore[arg-type]
    return rows


def test_it_learns_what_goes_with_a_low_bleu() -> None:
    rows = corpus()
    fitted = PredictedBleu().fit(rows)
    results = fitted.score_batch(rows)
    for row, result in zip(rows, results, strict=True):
        assert not isinstance(result, Unscored)
        assert result["measured"] == pytest.approx(sentence_bleu(row.completion, [row.gold]).score)
    good, bad = results[0::2], results[1::2]
    assert sum(one["bleu"] > other["bleu"] for one, other in zip(good, bad, strict=True)) == len(good)  # type: ignore[index,operator]
    assert fitted.findings()["rank_correlation"] > 0.7


def test_a_script_without_spaces_is_compared_by_characters() -> None:
    reference = "今天天气很好我们一起去公园散步"
    texts = [reference[:-2] + "跑步", "股票市场昨天大幅下跌投资者抛售股份"]
    rows = [
        Example(
            messages=[{"role": "user", "content": f"q{at // 2}"}, {"role": "assistant", "content": texts[at % 2]}],
            row=at,
            gold=reference,
        )
        for at in range(60)
    ]
    near, far = PredictedBleu().fit(rows).score_batch(rows[:2])
    assert near["measured"] == pytest.approx(sentence_bleu(texts[0], [reference], tokenize="char").score)  # type: ignore[index]
    assert near["measured"] > 60 > 10 > far["measured"]  # type: ignore[index,operator]


def test_a_row_without_a_reference_is_predicted_by_all_others() -> None:
    rows = corpus()
    turns = [{"role": "user", "content": "new"}, {"role": "assistant", "content": " ".join(WORDS[:16]) + " etc"}]
    rows.append(Example(messages=turns, row=len(rows)))  # type: ignore[arg-type]
    result = PredictedBleu().fit(rows).score(rows[-1])
    assert not isinstance(result, Unscored)
    assert result["measured"] is None
    assert isinstance(result["bleu"], float)
    assert result["bleu"] < 80


def test_a_source_can_be_the_reference() -> None:
    rows = corpus()
    fitted = PredictedBleu(reference_source="good").fit(rows)
    good, bad = fitted.score_batch(rows[:2])
    assert good == Unscored("is the reference")
    assert not isinstance(bad, Unscored)
    assert bad["measured"] == pytest.approx(sentence_bleu(rows[1].completion, [rows[0].completion]).score)


def test_a_short_gold_is_an_answer_and_no_reference() -> None:
    rows = [Example(messages=row.messages, row=row.row, gold="42") for row in corpus()]
    assert set(map(repr, PredictedBleu().fit(rows).score_batch(rows))) == {"Unscored(reason='too_few_references')"}


def test_an_empty_completion_has_no_quality() -> None:
    rows = [*corpus(), Example(messages=[{"role": "assistant", "content": " "}], row=120, gold="one two three four five")]
    assert PredictedBleu().fit(rows).score(rows[-1]) == Unscored("empty completion")
