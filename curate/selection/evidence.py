"""What is known of the scores that a selection rests on: diversity before and after, and how good its detectors are."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from curate.recipes.schema import Step
from curate.selection.frame import Bools
from curate.selection.steps import Selection, random_keys

CALIBRATION = "calibration.json"
"""In the run's folder; `curate calibrate` writes it."""
DETECTORS = ("detectors", "binoculars", "detector_model", "learned_detector")


@dataclass(frozen=True)
class Diversity:
    """Mean self-BLEU of sets of completions, in [0, 1]; higher is less diverse. It rises with the number of rows."""

    n: int
    tokenizer: str
    all_rows: float | None
    kept: float | None
    random: float | None
    """Of as many rows as are kept, drawn at random from all: what `kept` is to be compared with."""


@dataclass(frozen=True)
class Calibrated:
    """What a detector was measured to do on labelled rows."""

    auroc: float
    found_at_1: float
    """Share of the machine-written rows found at 1 % false positives."""


def diversity(selection: Selection) -> Diversity | None:
    """Set-level self-BLEU, where the recipe has the filter `self_bleu`."""
    store = selection.frame.stores.get("self_bleu")
    if store is None:
        return None
    n, tokenizer = store.plan["parameters"]["n"], store.plan["parameters"]["tokenizer"]
    everything = np.arange(selection.frame.count)
    draw = everything[np.lexsort((everything, random_keys(everything, 0)))][: int(selection.kept.sum())]
    chosen = np.zeros(selection.frame.count, dtype=bool)
    chosen[draw] = True
    values = [_self_bleu(selection, rows, n, tokenizer) for rows in (np.ones_like(chosen), selection.kept, chosen)]
    return Diversity(n, tokenizer, *values)


def _self_bleu(selection: Selection, rows: Bools, n: int, tokenizer: Any) -> float | None:
    from curate.diversity.self_bleu import set_self_bleu

    store = selection.frame.rows
    texts = (
        example.completion
        for shard in store.shards
        for place, example in enumerate(store.examples(shard))
        if rows[shard.start + place]
    )
    return set_self_bleu(texts, n=n, tokenizer=tokenizer)


def detector_fields(steps: tuple[Step, ...]) -> list[str]:
    """The detector outputs that steps act on."""
    return sorted({field for step in steps for field in step.fields() if field.partition(".")[0] in DETECTORS})


def calibrated(selection: Selection) -> dict[str, Calibrated]:
    """Of the detectors that the recipe acts on, the figures that stand in the run's folder."""
    path = selection.frame.rows.folder.parent / CALIBRATION
    try:
        found = json.loads(path.read_text("utf-8"))["detectors"]
        return {
            field: Calibrated(float(found[field]["auroc"]), float(found[field]["found_at_1"]))
            for field in detector_fields(selection.recipe.steps)
            if field in found
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError):  # of another version, or not ours: as good as none, and said to be none
        return {}


def uncalibrated(selection: Selection) -> list[str]:
    """A warning for every detector that the recipe acts on without knowing how good it is."""
    known = calibrated(selection)
    out = selection.frame.rows.folder.parent
    return [
        f"the recipe acts on {field}, which is uncalibrated here: nobody knows how many human rows it takes for machine-written; "
        f"run `curate calibrate` on labelled rows with --out {out}"
        for field in detector_fields(selection.recipe.steps)
        if field not in known
    ]
