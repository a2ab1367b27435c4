"""What a card tells of the trials of a run."""

import json
import statistics
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from curate.hub_cards.inert import Inert, code, number, prose, table
from curate.hub_cards.wording import is_packaged, points, trained_on, without_paths
from curate.trials import TrialReport, finished_trials
from curate.trials.power import power_sentence
from curate.trials.verdict import FEW_SEEDS

MOST_CONTRASTS = 24
_UNTRAINED = "cannot be told from the untrained model"
_OTHER_SETTINGS = "not the recipe's own trial"
_SAID_IN_CAVEATS = (f"fewer than {FEW_SEEDS} seeds", _UNTRAINED)


class Trials:
    """The finished trials of a run's steps, and the one that the card tells of."""

    def __init__(self, out: Path, facts: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
        self.out, self.facts, self.recipe = out, facts, recipe

    @property
    def word(self) -> Inert:
        """The verdict in a word, with the number of seeds and whether there are caveats; `no` where no trial was run."""
        if self.told is None:
            return Inert("no")
        data = self._trials[self.told].data
        told = f"{number(_seeds(data))} seeds" + ("; see the caveats below" if any(self._caveats(data)) else "")
        return Inert(f"{prose(self._trials[self.told].word)} ({told})")

    def _caveats(self, data: Mapping[str, Any]) -> Iterator[str]:
        """What a reader has to know beside the verdict's word."""
        if _seeds(data) < FEW_SEEDS:
            yield f"fewer than {FEW_SEEDS} seeds: how far the score moves from seed to seed is hardly known"
        trained = [entry for entry in data["contrasts"] if entry["kind"] == "trained"]
        if same := [f"`{entry['treated']}`" for entry in trained if entry["low"] <= 0 <= entry["high"]]:
            yield f"{' and '.join(same)} {_UNTRAINED}: this training taught little that the test could see"
        if worse := [f"`{entry['treated']}`" for entry in trained if entry["high"] < 0]:
            yield f"{' and '.join(worse)} scored below the untrained model: this training did harm"
        if other := list(_other_settings(self.recipe, data["plan"])):
            yield f"the trial ran with other settings than the recipe says: {'; '.join(other)}"

    @cached_property
    def _trials(self) -> dict[str, TrialReport]:
        """Finished trials of these very steps, by folder: the clock, which a copy sets anew, has no say in their order."""
        found = {folder.name: TrialReport.load(folder) for folder in sorted(finished_trials(self.out))}
        return {name: report for name, report in found.items() if report.data["plan"]["recipe"]["steps"] == self.recipe["steps"]}

    @cached_property
    def told(self) -> str | None:
        """Folder of the trial that is told of: the one that is published, where the facts say which."""
        if "trial" in self.facts:
            published = self.facts["trial"]
            return published if published in self._trials else None
        return max(self._trials, key=lambda name: (len(self._trials[name].data["arms"][0]["tokens"]), name), default=None)

    def as_context(self) -> dict[str, Any] | None:
        """The template's variables; None where no trial was run."""
        if self.told is None:
            return None
        report = self._trials[self.told]
        data = report.data
        task = data["primary"]["task"]
        arms = {arm["arm"]: arm for arm in data["arms"]}
        scores = [
            [
                code(score["arm"]),
                trained_on(score["arm"]),
                number(len(score["strict"])),
                points(score["strict"]),
                number(arms[score["arm"]]["rows"]),
                number(arms[score["arm"]]["steps"]),
                number(round(statistics.fmean(arms[score["arm"]]["tokens"]))),
            ]
            for score in data["scores"]
            if score["task"] == task
        ]
        credits = [
            [
                Inert("; ".join(code(without_paths(step), most=160) for step in entry["steps"]) or "–"),
                prose(entry["word"]),
                Inert(f"{100 * entry['difference']:+.1f}"),
                Inert(f"{100 * entry['low']:+.1f} to {100 * entry['high']:+.1f}"),
            ]
            for entry in data["steps"]
        ]
        caveats = list(self._caveats(data))
        told_already = [known for known in _SAID_IN_CAVEATS if any(known in caveat for caveat in caveats)]
        reasons = [line for line in data["verdict"]["reasons"] if not any(known in line for known in told_already)]
        # The caveats say it already, in whole sentences.
        limits = [line for line in data["limits"] if not line.startswith(_OTHER_SETTINGS)]
        notes = [*reasons, *limits, *data["notices"]]
        notes += [
            f"{overlap['found']:,} of {overlap['items']:,} test items of {overlap['task']} stand in the training rows"
            for overlap in data["overlaps"]
            if overlap["found"]
        ]
        others = [other.sentence for name, other in self._trials.items() if name != self.told]
        return {
            "word": prose(report.word),
            "sentence": prose(without_paths(report.sentence)),
            "task": code(task),
            "model": self._trained(data),
            "caveats": [prose(without_paths(caveat)) for caveat in caveats],
            "contrasts": _contrasts(data),
            "scores": table(["arm", "trained on", "seeds", "points", "rows", "steps", "tokens"], scores, text_columns=2),
            "credits": table(["step", "verdict", "points", "95 % interval"], credits, text_columns=2) if credits else None,
            "notes": [prose(without_paths(note)) for note in notes],
            "others": [prose(without_paths(sentence)) for sentence in others],
            "power": prose(power_sentence(data["power"])),
        }

    def _trained(self, data: Mapping[str, Any]) -> Inert:
        """The model that the trial trained."""
        identity = data["plan"].get("model_identity")
        if is_packaged(identity):
            return Inert("the small reference model that comes with `curate`")
        return code(without_paths(str(data["model"])))


def _seeds(data: Mapping[str, Any]) -> int:
    """Seeds of the verdict's two arms, of the one with fewer."""
    primary = data["primary"]
    mine = [score for score in data["scores"] if score["task"] == primary["task"]]
    counts = [len(score["strict"]) for score in mine if score["arm"] in (primary["treated"], primary["control"])]
    return min(counts, default=max((len(score["strict"]) for score in mine), default=0))


def _contrasts(data: Mapping[str, Any]) -> Inert | None:
    """The verdict's contrast and those with the untrained model; None where a trial has none."""
    rows = []
    for entry in data["contrasts"]:
        if entry["kind"] in ("primary", "trained", "guard"):
            on = "" if entry["task"] == data["primary"]["task"] else f" on {code(entry['task'])}"
            rows.append(
                [
                    Inert(f"{code(entry['treated'])} less {code(entry['control'])}{on}"),
                    prose(entry["word"]),
                    Inert(f"{100 * entry['difference']:+.1f}"),
                    Inert(f"{100 * entry['low']:+.1f} to {100 * entry['high']:+.1f}"),
                ]
            )
    return table(["compared", "finding", "points", "95 % interval"], rows[:MOST_CONTRASTS], text_columns=2) if rows else None


def _other_settings(recipe: Mapping[str, Any], plan: Mapping[str, Any]) -> Iterator[str]:
    """Settings with which the trial ran, where the recipe says others."""
    asked = recipe.get("trial") or {}
    ran = {**((plan.get("recipe") or {}).get("trial") or {})}
    if "seeds" in plan:
        ran["seeds"] = len(plan["seeds"])
    training = plan.get("training") or ran.pop("training", {})
    for wanted, used in ((asked, ran), (asked.get("training") or {}, training)):
        for key in sorted(set(wanted) & set(used) - {"training"}):
            if (is_so := json.dumps(used[key])) != (said := json.dumps(wanted[key])):
                yield f"`{key}` {_told(is_so)} where it says {_told(said)}"


def _told(value: str) -> str:
    return "nothing" if value == "null" else f"`{value.replace(chr(96), chr(39))}`"
