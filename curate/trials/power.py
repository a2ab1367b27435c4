"""What a trial can find: stated before training, from an earlier trial's variances or assumed ones, and again afterwards."""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from curate.trials.history import components_before
from curate.trials.statistics import Components, detectable, seeds_needed, stated_components

EFFECTS = (0.02, 0.03, 0.05)
"""Differences for which the seeds needed are told."""
MOST_SEEDS = 100
ASSUMED_ACCURACY = 0.5
"""Where answers scatter most."""


def power_facts(components: Components, *, seeds: int, items: int, source: str) -> dict[str, Any]:
    """What can be found with 80 % power, and what finding less would take; `source` says where the variances come from."""
    smallest = detectable(components, seeds=seeds, items=items)
    return {
        "seeds": seeds,
        "items": items,
        "detectable": smallest if math.isfinite(smallest) else None,
        "seeds_needed": {
            f"{effect:g}": seeds_needed(components, items=items, effect=effect, most=MOST_SEEDS) for effect in EFFECTS
        },
        "components": asdict(components),
        "source": source,
    }


def power_before(test_set: str, conditions: str, *, seeds: int, items: int) -> dict[str, Any]:
    """What a trial on this test set is going to be able to find.

    By the variances of an earlier one of the same model and training, where none of them was estimated at zero: that is an
    estimate that fell below, and would promise too much. Else by assumed ones.
    """
    components = stated_components(ASSUMED_ACCURACY)
    source = (
        f"assumed variances (accuracy {100 * ASSUMED_ACCURACY:g} %, seed standard deviation 1.6 points as recorded elsewhere)"
    )
    found = components_before(test_set, conditions)
    if found is not None:
        with contextlib.suppress(TypeError):  # another version noted other names
            measured = Components(**found["components"])
            if min(asdict(measured).values()) > 0:
                components, source = measured, f"the variances of trial {found['trial']} on this test set"
    return power_facts(components, seeds=seeds, items=items, source=source)


def power_sentence(power: Mapping[str, Any]) -> str:
    """`with ..., 5 seeds and 1,319 items find a difference of 4.3 points in 80 % of trials, smaller ones less often; ...`."""
    found = power["detectable"]
    if found is not None and found > 1:  # more points than there are
        found = None
    size = "no difference" if found is None else f"a difference of {100 * found:.1f} points"
    # Without the clause a smaller difference that a verdict rests on looks like a contradiction.
    smaller = "" if found is None else ", smaller ones less often"
    needed = "; ".join(
        f"for {100 * float(effect):g} points: {f'more than {MOST_SEEDS}' if seeds is None else seeds}"
        for effect, seeds in power["seeds_needed"].items()
    )
    return (
        f"by {power['source']}, {power['seeds']} seeds and {power['items']:,} items find {size} in 80 % of trials{smaller}; "
        f"seeds needed {needed}"
    )
