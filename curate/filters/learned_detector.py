"""The `learned_detector` filter: human or machine, as learnt from the user's own labelled rows."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from curate import progress
from curate.examples import Example
from curate.filters.base import OutputType, Scores, Unscored, register
from curate.filters.corpus import CorpusFilter

if TYPE_CHECKING:
    from curate.learning import LinearModel

FEWEST_ROWS = 20
FEWEST_PROMPTS = 10
"""Rows of either class, and their prompts, below which nothing is learnt."""


@dataclass(frozen=True)
class _Learnt:
    model: "LinearModel | None" = None
    held_out: dict[int, float] = field(default_factory=dict)
    findings: dict[str, Any] = field(default_factory=dict)


@register("learned_detector")
class LearnedDetector(CorpusFilter):
    """How machine-like the completion is to a regression learnt from your own rows of known origin. Higher is more machine-like.

    Outputs:
        log_odds: log-odds that a machine wrote it, both classes weighted equally. Above 0 is machine-like.
        p_machine: the same as a probability, in [0, 1]; it says nothing of how common machine text is in your data.

    It learns from the rows of the run whose `source` is known: those of `human` against all others. A row that it learns from is
    scored by a regression that has not seen its prompt. With `load` it scores with what `curate calibrate --save` has learnt.
    White space is collapsed first: layout tells who formatted a text. It sees words, word pairs, and the surface features of
    `curate.learning.surface_features`.
    Unscored: `too_short` (fewer than `fewest_words` words); all rows where fewer than 20 rows of either class, or 10 prompts, are
    long enough to learn from (`too_few_labelled_rows`).

    Known failures: it knows the sources, domains and prompts that it learnt from and hardly any others (docs/calibration.md
    shows what leaving a domain out costs). It calls plain prose machine-written, above all that of non-native writers. One
    rewrite hides a text. A human source with a habit of its own (calculator marks, a fixed last line) is known by that habit.
    Never cut on it without its figures on labelled rows of your own: `curate calibrate`.
    Cost: about 3 ms per row of 150 words, most of it for the fits; no model.
    Source: the detector ordering of arXiv:2407.12835, whose classifier is not published: this is ours, a logistic regression
    (scikit-learn).
    """

    version: ClassVar[int] = 1
    described_by_identity: ClassVar = ("load",)
    reads: ClassVar = ("messages", "source", "group")
    outputs: ClassVar[dict[str, OutputType]] = {"log_odds": "float64", "p_machine": "float64"}

    human: tuple[str, ...] = Field(
        default=("human",), min_length=1, description="Sources that people wrote; all others are machines."
    )
    load: Path | None = Field(default=None, description="Folder of a detector that `curate calibrate --save` wrote.")
    fewest_words: int = Field(default=50, ge=1, description="Words below which a text tells too little.")
    strength: float = Field(default=10.0, gt=0.0, description="Weight of the rows against the penalty (C of scikit-learn).")

    def identity(self) -> dict[str, Any]:
        """The rows learnt from, or the loaded detector. Raises ModelError where there is none in `load`."""
        return super().identity() if self.load is None else {"detector": self._loaded().digest()}

    def _loaded(self) -> "LinearModel":
        from curate.learning import LinearModel

        assert self.load is not None
        return LinearModel.load(self.load.expanduser())

    def learn(self, examples: Iterable[Example]) -> _Learnt:
        """The regression, and its scores for the rows that it learnt from."""
        if self.load is not None:
            return _Learnt(self._loaded())
        rows = [example for example in examples if example.source is not None and not self._is_short(example)]
        labels = [example.source not in self.human for example in rows]
        prompts = [example.prompt_key for example in rows]
        if min(sum(labels), len(rows) - sum(labels)) < FEWEST_ROWS or len(set(prompts)) < FEWEST_PROMPTS:
            progress.note(
                f"learned_detector: {len(rows) - sum(labels):,} human and {sum(labels):,} machine rows of {len(set(prompts)):,} "
                f"prompts have a source and {self.fewest_words} words; {FEWEST_ROWS} of each and {FEWEST_PROMPTS} prompts are "
                f"needed (human are the sources {', '.join(self.human)})"
            )
            return _Learnt()
        return self._fit(rows, labels, prompts)

    def _fit(self, rows: list[Example], labels: list[bool], prompts: list[str]) -> _Learnt:
        import numpy as np

        from curate.learning import fit_linear
        from curate.learning.judging import auroc, found_at

        facts = {"human": sorted(self.human), "fewest_words": self.fewest_words}
        targets = [float(label) for label in labels]
        texts = [row.completion for row in rows]
        fitted = fit_linear("logistic", texts, targets, prompts, strength=self.strength, facts=facts)
        is_machine = np.array(labels)
        figures = {
            "auroc": auroc(fitted.held_out, is_machine),
            **{f"found_at_{rate:.0%}": found_at(fitted.held_out, is_machine, rate) for rate in (0.01, 0.05)},
            "human_rows": int((~is_machine).sum()),
            "machine_rows": int(is_machine.sum()),
        }
        progress.note(
            f"learned_detector: AUROC {figures['auroc']:.3f} on prompts it has not seen; it finds "
            f"{figures['found_at_1%']:.0%} of the machine rows at 1 % false alarms"
        )
        held_out = dict(zip((row.row for row in rows), fitted.held_out.tolist(), strict=True))
        return _Learnt(fitted.model, held_out, figures | dict(fitted.model.facts))

    def _is_short(self, example: Example) -> bool:
        return len(example.completion.split()) < self.fewest_words

    def score_batch(self, examples: Sequence[Example]) -> list[Scores | Unscored]:
        """The log-odds of every row: held out where the row was learnt from, else the whole model's."""
        state: _Learnt = self.state
        log_odds = dict(state.held_out)
        rest = [row for row in examples if row.row not in log_odds and not self._is_short(row)]
        if state.model is not None:
            log_odds |= zip((row.row for row in rest), state.model.decide([row.completion for row in rest]).tolist(), strict=True)
        return [self._scores(row, log_odds.get(row.row)) for row in examples]

    def _scores(self, example: Example, log_odds: float | None) -> Scores | Unscored:
        if self._is_short(example):
            return Unscored("too_short")
        if log_odds is None:
            return Unscored("too_few_labelled_rows")
        return {"log_odds": log_odds, "p_machine": probability(log_odds)}

    def findings(self) -> dict[str, Any]:
        """How well it tells the classes apart on held-out prompts."""
        state: _Learnt = self.state
        return state.findings

    def model(self) -> "LinearModel | None":
        """What was learnt, to be saved; None where there was too little to learn from."""
        state: _Learnt = self.state
        return state.model


def probability(log_odds: float) -> float:
    """Log-odds as a probability; no overflow for any number."""
    return 1 / (1 + math.exp(-max(-700.0, min(700.0, log_odds))))
