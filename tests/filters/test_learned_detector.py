"""The learned detector: held out by prompt, blind to layout, honest about too little data."""

import math
import random
from pathlib import Path

import pytest

from curate.errors import ModelError
from curate.examples import Example
from curate.filters import LearnedDetector, Scores, Unscored
from curate.filters.learned_detector import probability

WORDS = [f"word{number}" for number in range(80)]


def corpus(prompts: int = 40) -> list[Example]:
    """Two human and two machine texts per prompt; machines say `delve` now and then."""
    draw = random.Random(0)
    rows: list[Example] = []
    for number in range(prompts):
        for source in ("human", "human", "gpt", "claude"):
            text = draw.choices(WORDS + ["delve"] * 4 * (source != "human"), k=60)
            turns = [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": " ".join(text)}]
            rows.append(Example(messages=turns, row=len(rows), source=source))  # type: ignore[arg-type]
    return rows


def log_odds(result: Scores | Unscored) -> float:
    assert not isinstance(result, Unscored), result
    assert isinstance(result["log_odds"], float)
    return result["log_odds"]


def row(text: str, place: int = 999) -> Example:
    return Example(messages=[{"role": "assistant", "content": text}], row=place)


def test_it_tells_machines_by_their_words() -> None:
    rows = corpus()
    fitted = LearnedDetector().fit(rows)
    assert fitted.findings()["auroc"] > 0.85
    assert fitted.findings()["human_rows"] == fitted.findings()["machine_rows"] == 80
    results = fitted.score_batch(rows)
    for result in results:
        assert not isinstance(result, Unscored)
        assert result["p_machine"] == pytest.approx(1 / (1 + math.exp(-log_odds(result))))
    assert log_odds(fitted.score(row("word1 delve " * 30))) > log_odds(fitted.score(row("word1 word2 " * 30)))


def test_labels_that_mean_nothing_are_not_predicted() -> None:
    draw = random.Random(1)
    rows = [Example(messages=each.messages, row=each.row, source=draw.choice(("human", "gpt"))) for each in corpus()]
    assert 0.3 < LearnedDetector().fit(rows).findings()["auroc"] < 0.7


def test_layout_does_not_matter() -> None:
    fitted = LearnedDetector().fit(corpus())
    assert fitted.score(row("word1 word2 " * 30)) == fitted.score(row("word1\n\nword2\n" * 30))


def test_short_texts_are_unscored() -> None:
    fitted = LearnedDetector().fit(corpus())
    assert fitted.score(row("delve " * 49)) == Unscored("too_short")
    assert not isinstance(fitted.score(row("delve " * 50)), Unscored)


@pytest.mark.parametrize("human", [("nobody",), ("human", "gpt", "claude")])
def test_without_both_classes_no_row_is_scored(human: tuple[str, ...]) -> None:
    rows = corpus()
    results = LearnedDetector(human=human).fit(rows).score_batch(rows)
    assert set(map(repr, results)) == {"Unscored(reason='too_few_labelled_rows')"}


def test_a_saved_detector_scores_other_rows(tmp_path: Path) -> None:
    fitted = LearnedDetector().fit(corpus())
    model = fitted.model()
    assert model is not None
    model.save(tmp_path / "detector")
    loaded = LearnedDetector(load=tmp_path / "detector").fit([row("x")])
    text = row("word1 delve word2 " * 20)
    assert loaded.score(text) == fitted.score(text)
    known = loaded.fingerprint()
    (tmp_path / "detector").rename(tmp_path / "moved")
    assert LearnedDetector(load=tmp_path / "moved").fingerprint() == known
    with pytest.raises(ModelError, match="holds no model"):
        LearnedDetector(load=tmp_path / "nowhere").fingerprint()


@pytest.mark.parametrize("extreme", [-1e9, 1e9, 0.0])
def test_a_probability_is_one_for_any_log_odds(extreme: float) -> None:
    assert 0.0 <= probability(extreme) <= 1.0
