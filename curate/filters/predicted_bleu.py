"""The `predicted_bleu` filter: quality as learnt from the rows that have a reference."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from curate import progress
from curate.examples import Example
from curate.filters.base import OutputType, Scores, Unscored, register
from curate.filters.corpus import CorpusFilter

FEWEST_ROWS = 50
FEWEST_PROMPTS = 10
"""Rows with a reference, and their prompts, below which nothing is learnt."""
_WITHOUT_SPACES = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""Letters of Thai, Lao, Burmese, Khmer, Japanese and Chinese."""
_TOO_FEW = "too_few_references"


@dataclass(frozen=True)
class _Learnt:
    predicted: dict[int, float]
    measured: dict[int, float]
    findings: dict[str, Any]


@register("predicted_bleu")
class PredictedBleu(CorpusFilter):
    """Quality of the completion, as a regression learnt from the rows that have a reference predicts its BLEU. Higher is better.

    Outputs:
        bleu: predicted sentence BLEU, on the scale of 0 to 100; a prediction may lie a little outside.
        measured: the row's own BLEU against its reference, in [0, 100]. Null for rows without a reference.

    References are `gold` of at least `fewest_words` words (characters in scripts without spaces), or the completions of
    `reference_source` for the same prompt. A row with a reference is predicted by a regression that has not seen its prompt; the
    others by the one learnt from all.
    What it sees of a row: length, ratio to the prompt's length, copied words and numbers, punctuation, repetition and the like
    (`curate.learning.surface_features`), and hashed words and word pairs. Its rank correlation with the measured BLEU on held-out
    prompts is noted when it is learnt and stands in the report (`findings`); below about 0.2 an ordering by it is close to
    random. `consensus` predicts better wherever a prompt has several responses (docs/quality.md).
    Unscored: `empty completion`; rows of `reference_source` themselves (`is the reference`); all rows where fewer than 50 rows,
    or rows of fewer than 10 prompts, have a reference (`too_few_references`).
    Cost: about 1 ms per row, most of it for the fits; no model.
    Source: the quality ordering by predicted BLEU of arXiv:2407.12835, whose features and regressor are not published: these are
    ours. Sentence BLEU as sacrebleu computes it (exp smoothing, effective order, 13a; by characters
    where the reference is mostly of a script without spaces, on a scale of its own).
    """

    version: ClassVar[int] = 2
    reads: ClassVar = ("messages", "gold", "source", "group")
    outputs: ClassVar[dict[str, OutputType]] = {"bleu": "float64", "measured": "float64"}

    reference_source: str | None = Field(default=None, description="The source whose completions are the references.")
    fewest_words: int = Field(default=4, ge=1, description="Words from which a gold is a reference and not a short answer.")
    strength: float = Field(default=1.0, gt=0.0, description="Weight of the rows against the penalty of the ridge regression.")

    def learn(self, examples: Iterable[Example]) -> _Learnt:
        """References, their BLEU, and the regression."""
        from curate.learning import FeatureSettings, fit_linear

        rows = [example for example in examples if example.completion.strip() and not self._is_reference(example)]
        references = self._references(examples)
        measured = {row.row: _bleu(row.completion, found) for row in rows if (found := self._reference(row, references))}
        learnt_from = [row for row in rows if row.row in measured]
        if len(learnt_from) < FEWEST_ROWS or len({row.prompt_key for row in learnt_from}) < FEWEST_PROMPTS:
            progress.note(
                f"predicted_bleu: {len(learnt_from):,} rows have a reference, {FEWEST_ROWS} rows of {FEWEST_PROMPTS} prompts "
                "are needed; map the references to `gold`, name a source with `reference_source`, or rank by `consensus`"
            )
            return _Learnt({}, measured, {})
        fitted = fit_linear(
            "ridge",
            [row.completion for row in learnt_from],
            [measured[row.row] for row in learnt_from],
            [row.prompt_key for row in learnt_from],
            prompts=[row.prompt_text for row in learnt_from],
            settings=FeatureSettings(),
            strength=self.strength,
        )
        predicted = dict(zip((row.row for row in learnt_from), fitted.held_out.tolist(), strict=True))
        rest = [row for row in rows if row.row not in measured]
        said = fitted.model.decide([row.completion for row in rest], [row.prompt_text for row in rest])
        predicted |= dict(zip((row.row for row in rest), said.tolist(), strict=True))
        findings = _judged(learnt_from, predicted, measured) | dict(fitted.model.facts)
        progress.note(
            f"predicted_bleu: rank correlation with the measured BLEU on held-out prompts {findings['rank_correlation']:.2f} "
            f"({len(learnt_from):,} rows); of length alone {findings['rank_correlation_of_length']:.2f}"
        )
        return _Learnt(predicted, measured, findings)

    def _is_reference(self, example: Example) -> bool:
        return self.reference_source is not None and example.source == self.reference_source

    def _references(self, examples: Iterable[Example]) -> dict[str, list[str]]:
        """The reference source's completions by prompt."""
        found: dict[str, list[str]] = {}
        for example in examples if self.reference_source is not None else ():
            if self._is_reference(example) and example.completion.strip():
                found.setdefault(example.prompt_key, []).append(example.completion)
        return found

    def _reference(self, example: Example, references: dict[str, list[str]]) -> list[str]:
        if self.reference_source is not None:
            return references.get(example.prompt_key, [])
        from curate.diversity.near_duplicates import words_of

        gold = example.gold or ""
        return [gold] if len(words_of(gold)) >= self.fewest_words else []

    def score(self, example: Example) -> Scores | Unscored:
        """The prediction."""
        state: _Learnt = self.state
        if self._is_reference(example):
            return Unscored("is the reference")
        if not example.completion.strip():
            return Unscored("empty completion")
        if not state.predicted:
            return Unscored(_TOO_FEW)
        return {"bleu": state.predicted[example.row], "measured": state.measured.get(example.row)}

    def findings(self) -> dict[str, Any]:
        """How well held-out prompts were predicted."""
        state: _Learnt = self.state
        return state.findings


def _bleu(completion: str, references: list[str]) -> float:
    from sacrebleu import sentence_bleu

    # 13a takes a sentence without spaces for one word: its BLEU is 0 unless all of it is right.
    said = "".join(references)
    by_characters = 2 * len(_WITHOUT_SPACES.findall(said)) > sum(map(str.isalpha, said))
    return float(sentence_bleu(completion, references, tokenize="char" if by_characters else "13a").score)


def _judged(rows: list[Example], predicted: dict[int, float], measured: dict[int, float]) -> dict[str, Any]:
    """Rank correlations of predictions with what was measured, beside that of length: a bar that any predictor has to pass."""
    from scipy.stats import spearmanr

    truth = [measured[row.row] for row in rows]

    def correlation(values: list[float]) -> float:
        varies = len(set(values)) > 1 and len(set(truth)) > 1
        return float(spearmanr(values, truth).statistic) if varies else 0.0

    return {
        "rank_correlation": correlation([predicted[row.row] for row in rows]),
        "rank_correlation_of_length": correlation([float(len(row.completion)) for row in rows]),
        "measured_mean": sum(truth) / len(truth),
    }
