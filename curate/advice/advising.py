"""advise(): a few hundred rows of every source are scored, and the sources ranked."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curate.advice.rule import CLOSE, EVIDENCE, LIMITS, Measure, ranking
from curate.advice.sampling import Sample, sample
from curate.advice.statistics import Estimate, Floats, Ints, Redrawn, estimate, interval, is_far_above
from curate.annotations import Annotations, AnnotationStore, annotate
from curate.errors import UsageError
from curate.examples import Example, Examples
from curate.filters import Filter, Unscored, build_filter
from curate.selection.frame import Frame

FEW_ROWS = 100
"""Below this many rows a source's interval is too wide to trust the order."""
SHARED = 0.5
"""Below this share of shared prompts sources are compared on different questions, and a note says so."""


@dataclass(frozen=True)
class SourceFacts:
    """What was measured of one source."""

    source: str
    rows: int
    unscored: int
    """Rows that the target model cannot score."""
    truncated: int
    is_own: bool
    """The target's own answers: shown, not ranked, since a model finds its own words familiar whatever they teach."""
    perplexity: Estimate | None
    """exp(total NLL / total tokens) of the verbatim completions, given their prompts: the geometric mean over tokens."""
    median_perplexity: Estimate | None
    """Median over rows."""
    self_aligned: Estimate | None
    """As perplexity, with some of the target's own correct answers in the prompt; None without `own`."""
    error_rate: Estimate
    """Share of rows with a mistake (`errors.fatal`)."""
    self_bleu: Estimate | None
    """Mean BLEU of a row against the others of its source, in [0, 1], at one count for all sources; None below 2 rows."""
    self_bleu_rows: int
    length: Estimate
    """Mean characters of a completion."""


@dataclass(frozen=True)
class Advice:
    """Sources, best first, and why."""

    data: str
    out: str
    model: str
    rows: int
    prompts: int
    shared_prompts: int
    measure: Measure
    sources: list[SourceFacts]
    """Ranked first; then those that cannot be ranked, by name."""
    ranked: list[str]
    tied: list[str]
    """Ranked sources whose difference from the first may be chance."""
    reason: str
    notes: list[str]
    evidence: str
    limits: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with the figures of the evidence."""
        return {**asdict(self), "evidence_figures": EVIDENCE[self.measure].to_dict()}


def advise(
    examples: Examples,
    model: Mapping[str, Any],
    out: str | Path,
    *,
    rows_per_source: int = 200,
    own: str | None = None,
    seed: int = 0,
) -> Advice:
    """Score some rows of every source into `out` and rank the sources; run again after an interruption and it goes on.

    Args:
        examples: data whose rows name their source.
        model: fields of `ModelSettings` of the model to train.
        out: folder of the scored sample.
        rows_per_source: at most this many rows of each source, on the same prompts where sources share them.
        own: the source that holds the target's own answers; its correct ones make the prefix of self-aligned perplexity.
        seed: of the sample and of the intervals.

    Raises:
        UsageError: no row names its source, or `own` is none of the sources.
    """
    filters = [build_filter(name, {}, where="advise") for name in ("errors", "length")]
    filters.append(build_filter("perplexity", model, where="advise"))
    if own is not None:
        filters.append(build_filter("self_aligned", {**model, "own": own}, where="advise"))
    for filter_ in filters:
        if not filter_.needs_corpus():
            filter_.fingerprint()  # raises for a model that cannot be used, before the first row is read
    taken = sample(examples, rows_per_source, seed=seed)
    if own is not None and own not in (names := sorted({str(example.source) for example in taken.examples})):
        raise UsageError(f"--own {own}: no such source in {examples.name}; there are {', '.join(names)}")
    annotations = annotate(taken.examples, filters, out)
    assert isinstance(annotations, Annotations)
    return _Measured(examples.name, Path(out), str(model["model"]), taken, annotations, own, seed).advice()


class _Measured:
    """The scored sample."""

    def __init__(
        self, name: str, out: Path, model: str, taken: Sample, annotations: Annotations, own: str | None, seed: int
    ) -> None:
        self.name, self.out, self.model, self.taken, self.own = name, out, model, taken, own
        stores: dict[str, AnnotationStore] = {store.filter_name: store for store in annotations.stores}
        self.frame = Frame(annotations.rows, stores)
        self.prompt: Ints = self.frame.codes("prompt_key")
        self.redrawn = Redrawn(int(self.prompt.max()) + 1, seed=seed)
        self.names = [str(name) for name in self.frame.names("source")]
        self.rows = {name: np.flatnonzero(self.frame.codes("source") == code) for code, name in enumerate(self.names)}
        self.drawn: dict[str, dict[str, Floats]] = {"perplexity": {}, "self_aligned": {}}

    def advice(self) -> Advice:
        bleus = self._self_bleus()
        facts = {name: self._facts(name, bleus[name]) for name in self.names}
        candidates = [fact for fact in facts.values() if not fact.is_own]
        measure, ranked = ranking(
            {fact.source: fact.self_aligned.value if fact.self_aligned else None for fact in candidates},
            {fact.source: fact.perplexity.value if fact.perplexity else None for fact in candidates},
        )
        tied = [name for name in ranked[1:] if self._may_be_equal(measure, ranked[0], name)]
        rest = sorted(set(self.names) - set(ranked))
        return Advice(
            data=self.name,
            out=str(self.out),
            model=self.model,
            rows=self.frame.count,
            prompts=self.taken.prompts,
            shared_prompts=self.taken.shared_prompts,
            measure=measure,
            sources=[facts[name] for name in (*ranked, *rest)],
            ranked=ranked,
            tied=tied,
            reason=reason([facts[name] for name in ranked], measure, tied),
            notes=notes([facts[name] for name in (*ranked, *rest)], ranked, self.taken, has_own=self.own is not None),
            evidence=EVIDENCE[measure].sentence(),
            limits=list(LIMITS),
        )

    def _may_be_equal(self, measure: Measure, first: str, other: str) -> bool:
        low, high = interval(self.drawn[measure][other] - self.drawn[measure][first])
        return low <= 0 <= high

    def _facts(self, name: str, self_bleu: tuple[Estimate | None, int]) -> SourceFacts:
        rows = self.rows[name]
        nll = self.frame.column("perplexity.content_nll")
        truncated = self.frame.column("perplexity.truncated")
        scored = rows[nll.valid[rows]]
        fatal = self.frame.column("errors.fatal").values[rows].astype(np.float64)
        median = self.redrawn.median(self.prompt[scored], np.exp(nll.values[scored])) if len(scored) else None
        return SourceFacts(
            source=name,
            rows=len(rows),
            unscored=len(rows) - len(scored),
            truncated=int(truncated.values[scored].sum()),
            is_own=name == self.own,
            perplexity=self._perplexity("perplexity", name),
            median_perplexity=median,
            self_aligned=self._perplexity("self_aligned", name) if self.own is not None else None,
            error_rate=self.redrawn.mean(self.prompt[rows], fatal),
            self_bleu=self_bleu[0],
            self_bleu_rows=self_bleu[1],
            length=self.redrawn.mean(self.prompt[rows], self.frame.characters.values[rows]),
        )

    def _perplexity(self, measure: Measure, name: str) -> Estimate | None:
        """exp(total NLL / total tokens); keeps what the resamples gave, in logarithms."""
        nll, tokens = self.frame.column(f"{measure}.content_nll"), self.frame.column(f"{measure}.content_tokens")
        rows = self.rows[name]
        scored = rows[nll.valid[rows] & tokens.valid[rows]]
        if not len(scored):
            return None
        counts = tokens.values[scored]
        mean, drawn = self.redrawn.ratio(self.prompt[scored], nll.values[scored] * counts, counts)
        self.drawn[measure][name] = drawn
        return estimate(float(np.exp(mean)), np.exp(drawn))

    def _self_bleus(self) -> dict[str, tuple[Estimate | None, int]]:
        """Self-BLEU rises with the number of rows, so each source gives as many as the smallest has."""
        least = min(len(rows) for rows in self.rows.values())
        if least < 2:
            return dict.fromkeys(self.names, (None, 0))
        examples = {example.row: example for example in self.frame.rows}
        found: dict[str, tuple[Estimate | None, int]] = {}
        for name, rows in self.rows.items():
            scores = _row_self_bleus(build_filter("self_bleu", {}, where="advise"), [examples[int(row)] for row in rows[:least]])
            there = np.flatnonzero(np.isfinite(scores))
            mean = self.redrawn.mean(self.prompt[rows[there]], scores[there]) if len(there) else None
            found[name] = (mean, least)
        return found


def _row_self_bleus(filter_: Filter, examples: list[Example]) -> Floats:
    fitted = filter_.fit(examples)
    results = fitted.score_batch(examples)
    return np.array([np.nan if isinstance(result, Unscored) else result["self_bleu"] for result in results], dtype=np.float64)


def reason(ranked: list[SourceFacts], measure: Measure, tied: list[str]) -> str:
    """One sentence: what comes first, and how sure that is."""
    words = {"self_aligned": "self-aligned perplexity", "perplexity": "perplexity"}[measure]
    values = {fact.source: getattr(fact, measure).value for fact in ranked}
    if not ranked:
        return "No source could be scored, so there is nothing to rank."
    first = ranked[0].source
    if len(ranked) == 1:
        return f"{first} is the only source that can be ranked: there is nothing to choose."
    lead = f"{first} has the lowest {words} ({values[first]:.2f}; next {ranked[1].source}, {values[ranked[1].source]:.2f})"
    near = [fact.source for fact in ranked[1:] if values[fact.source] < values[first] * (1 + CLOSE)]
    if tied:
        return f"{lead}, but these rows cannot tell it from {', '.join(tied)}: choose among them by errors, diversity and cost."
    if near:
        return (
            f"{lead}; {', '.join(near)} {'is' if len(near) == 1 else 'are'} within {CLOSE:.0%}, a gap at which the lower "
            "source did better in little more than half of the recorded comparisons."
        )
    return f"{lead}, the text that the target finds most familiar."


def notes(sources: list[SourceFacts], ranked: list[str], taken: Sample, *, has_own: bool) -> list[str]:
    """What a reader has to know before following the order; errors come first."""
    found = []
    for fact in sources:
        others = [other.error_rate for other in sources if other is not fact and not other.is_own]
        if not fact.is_own and others and is_far_above(fact.error_rate, others):
            rank = (
                " It is ranked first: drop its mistakes (recipe `clean`) or take the next." if [fact.source] == ranked[:1] else ""
            )
            found.append(
                f"{fact.source}: {fact.error_rate.value:.0%} of its rows are wrong or broken, far more than in other sources. "
                f"Mistakes can be familiar, and perplexity does not see them.{rank}"
            )
    if 0 < taken.shared_prompts < SHARED * taken.prompts or (not taken.shared_prompts and len(sources) > 1):
        found.append(
            f"only {taken.shared_prompts} of {taken.prompts} sampled prompts are answered by every source, so the sources are "
            "partly compared on different questions"
        )
    if few := [f"{fact.source} ({fact.rows})" for fact in sources if fact.rows < FEW_ROWS]:
        which = "every source" if len(few) == len(sources) else ", ".join(few)
        found.append(f"fewer than {FEW_ROWS} rows of {which}; the intervals are wide")
    if unscored := [f"{fact.source} ({fact.unscored})" for fact in sources if fact.unscored]:
        found.append(f"rows that the model cannot score: {', '.join(unscored)}")
    if truncated := [f"{fact.source} ({fact.truncated})" for fact in sources if fact.truncated]:
        found.append(f"rows longer than --max-length, scored on their beginning: {', '.join(truncated)}")
    if taken.without_source:
        found.append(f"{taken.without_source:,} rows name no source and were left out")
    if not has_own:
        found.append(
            "ranked by plain perplexity; where sources differ much, self-aligned perplexity lost less on the records "
            f"({EVIDENCE['self_aligned'].where_sources_differ.mean:.2f} against "
            f"{EVIDENCE['perplexity'].where_sources_differ.mean:.2f} points): add the target's own answers as a source and "
            "name it with --own"
        )
    return found
