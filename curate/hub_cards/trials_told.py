"""What a card tells of the trials of a run."""

import statistics
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from curate.hub_cards.inert import Inert, code, number, prose, table
from curate.hub_cards.wording import is_packaged, points, trained_on, without_paths
from curate.trials import TrialReport, finished_trials
from curate.trials.power import power_sentence


class Trials:
    """The finished trials of a run's steps, and the one that the card tells of."""

    def __init__(self, out: Path, facts: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> None:
        self.out, self.facts, self.steps = out, facts, steps

    @property
    def word(self) -> Inert:
        """The verdict in a word; `no` where no trial was run."""
        return Inert("no") if self.told is None else prose(self._trials[self.told].word)

    @cached_property
    def _trials(self) -> dict[str, TrialReport]:
        """Finished trials of these very steps, by folder: the clock, which a copy sets anew, has no say in their order."""
        found = {folder.name: TrialReport.load(folder) for folder in sorted(finished_trials(self.out))}
        return {name: report for name, report in found.items() if report.data["plan"]["recipe"]["steps"] == self.steps}

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
        notes = [*data["verdict"]["reasons"], *data["limits"], *data["notices"]]
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
