"""How well scores tell two classes apart: known answers, scikit-learn's, and intervals that cover."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.learning.judging import auroc, bootstrap, curve, found_at, threshold_at, wilson

NEGATIVE, POSITIVE = [0.0, 1.0, 2.0, 3.0], [2.0, 4.0, 5.0, 6.0]
SCORES = np.array(NEGATIVE + POSITIVE)
LABELS = np.array([False] * 4 + [True] * 4)


def test_auroc_counts_pairs() -> None:
    # of 16 pairs one is the wrong way round (3 above 2) and one is tied
    assert auroc(SCORES, LABELS) == pytest.approx(14.5 / 16)
    assert auroc(-SCORES, LABELS) == pytest.approx(1.5 / 16)
    assert auroc(np.zeros(8), LABELS) == 0.5


@given(rows=st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40))
@settings(deadline=None)
def test_auroc_and_curve_are_scikit_learns(rows: list[tuple[int, bool]]) -> None:
    from sklearn.metrics import auc, roc_auc_score

    scores, labels = np.array([float(score) for score, _ in rows]), np.array([label for _, label in rows])
    if labels.all() or not labels.any():
        return
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
    assert auc(*curve(scores, labels)) == pytest.approx(roc_auc_score(labels, scores))


@pytest.mark.parametrize(("rate", "threshold", "found"), [(0.0, 3.0, 0.75), (0.25, 2.0, 0.75), (0.5, 1.0, 1.0), (1.0, 0.0, 1.0)])
def test_at_most_the_rate_of_negatives_lies_above_the_threshold(rate: float, threshold: float, found: float) -> None:
    assert threshold_at(SCORES, LABELS, rate) == threshold
    assert found_at(SCORES, LABELS, rate) == found


@given(scores=st.lists(st.integers(0, 5), min_size=4, max_size=60), rate=st.floats(0, 1))
def test_the_rate_is_never_passed(scores: list[int], rate: float) -> None:
    values = np.array(scores, dtype=np.float64)
    labels = np.zeros(len(values), dtype=bool)
    assert (values > threshold_at(values, labels, rate)).mean() <= rate + 1e-9


def test_bootstrap_draws_whole_prompts() -> None:
    generator = np.random.default_rng(0)
    base = generator.normal(size=40)
    groups = [str(number) for number in range(40)]
    labels = np.arange(40) % 2 == 0
    scores = base + labels
    once = bootstrap(auroc, scores, labels, groups)
    # The same rows ten times over know no more than once.
    often = bootstrap(auroc, np.repeat(scores, 10), np.repeat(labels, 10), [group for group in groups for _ in range(10)])
    assert often.value == pytest.approx(once.value)
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=0.2)
    assert once.low < once.value < once.high
    assert bootstrap(auroc, scores, labels, groups) == once


def test_wilson_is_the_published_interval() -> None:
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)
