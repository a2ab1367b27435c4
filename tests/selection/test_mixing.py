"""Mixtures against known answers: shares, short sources, draws and ranks."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import workshop  # noqa: F401  (registers the filter `given`)
from tables import Row, kept, selected

from curate.errors import RecipeError
from curate.selection.mixing import divide, refill


def table(**counts: int) -> list[Row]:
    rows = [(source, place) for source, count in counts.items() for place in range(count)]
    return [Row(source=source, value=float(place), content=f"{source}{place}") for source, place in rows]


def mix(**settings: Any) -> dict[str, Any]:
    return {"mix": settings}


def kept_by_source(rows: list[Row], step: Any) -> dict[str | None, int]:
    found = [rows[row].source for row in kept(rows, step)]
    return {source: found.count(source) for source in sorted(set(found), key=str)}


def test_equal_shares_take_as_many_as_the_scarcest_source_has() -> None:
    assert kept_by_source(table(a=10, b=4, c=7), {"mix": "equal"}) == {"a": 4, "b": 4, "c": 4}


def test_shares_shrink_together_where_a_source_is_short() -> None:
    rows = table(a=100, b=10)
    step = mix(shares={"a": "50%", "b": "50%"}, total=60)
    assert kept_by_source(rows, step) == {"a": 10, "b": 10}
    (result,) = selected(rows, step).steps
    assert [(share.wanted, share.available, share.got) for share in result.portions] == [(30, 100, 10), (30, 10, 10)]
    assert any("b runs short, 10 rows for 30" in warning for warning in selected(rows, step).report.warnings)


def test_others_fill_up_in_proportion() -> None:
    step = mix(shares={"a": "50%", "b": "25%", "*": "25%"}, total=60, short="refill")
    assert kept_by_source(table(a=100, b=3, c=50, d=50), step)["b"] == 3
    assert sum(kept_by_source(table(a=100, b=3, c=50, d=50), step).values()) == 60
    assert kept_by_source(table(a=100, b=3, c=50, d=50), step)["a"] == 38


def test_a_short_source_is_an_error_that_counts_where_the_recipe_says_so() -> None:
    with pytest.raises(RecipeError, match=r"'b' has 3 of 10 rows"):
        selected(table(a=50, b=3), mix(shares={"a": "50%", "b": "50%"}, total=20, short="error"))


def test_sources_without_a_share_are_dropped_and_unknown_ones_refused() -> None:
    assert kept_by_source(table(a=4, b=4, c=4), mix(shares={"a": "50%", "b": "50%"})) == {"a": 4, "b": 4}
    with pytest.raises(RecipeError, match="did you mean 'human'"):
        selected(table(human=4), mix(shares={"humann": "100%"}))


def test_the_best_rows_of_each_source_are_taken_and_ties_go_to_the_earlier() -> None:
    rows = table(a=4, b=2)
    assert kept(rows, mix(shares="equal", field="given.value", first="highest")) == [2, 3, 4, 5]
    tied = [Row(source=source, value=1.0, content=str(place)) for place, source in enumerate("aaab")]
    assert kept(tied, mix(shares="equal", field="given.value")) == [0, 3]


def test_rows_without_a_value_are_taken_last() -> None:
    rows = [Row(source="a", value=None, content="x"), Row(source="a", value=9.0, content="y"), Row(source="b", content="z")]
    assert kept(rows, mix(shares="equal", field="given.value")) == [1, 2]


def test_a_draw_depends_on_the_seed_alone() -> None:
    rows = table(a=200, b=20)
    draws = [kept(rows, mix(shares="equal", seed=seed)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
    assert np.flatnonzero(selected(rows, mix(shares="equal"), cuts=[7, 100]).kept).tolist() == draws[0]


def test_division_adds_up_and_refilling_never_exceeds() -> None:
    dice = np.random.default_rng(0)
    for _ in range(300):
        weights = dice.integers(1, 9, size=dice.integers(1, 6)).tolist()
        shares = [Fraction(weight, sum(weights)) for weight in weights]
        total, available = int(dice.integers(0, 60)), dice.integers(0, 30, size=len(shares)).tolist()
        parts, got = divide(total, shares), refill(total, shares, available)
        assert sum(parts) == total
        assert all(abs(part - total * share) < 1 for part, share in zip(parts, shares, strict=True))
        assert sum(got) == min(total, sum(available))
        assert all(give <= have for give, have in zip(got, available, strict=True))
