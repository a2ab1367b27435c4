"""compare(): target and proxy score some prompts of the data, and the recipe selects by either."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curate import progress
from curate.annotations import Annotations, AnnotationStore, annotate
from curate.annotations.scoring import in_order
from curate.errors import InputError, RecipeError, UsageError
from curate.examples import Examples
from curate.filters import Filter, Likelihood, build_filter, known_filters
from curate.filters.likelihood import ForwardPass, forget_passes
from curate.learning.judging import Estimate
from curate.likelihood import Rendered, model_identity
from curate.progress import duration
from curate.proxy.agreement import RankAgreement, agreement, middle_of, overlap, shared_share
from curate.proxy.sampling import MOST_PER_PROMPT, Sample, sample
from curate.recipes import Recipe
from curate.recipes.schema import TARGET, Mix, Order, Ranking, Step
from curate.rows import RowStore
from curate.selection import Selection, select
from curate.selection.frame import Bools, Ints
from curate.selection.steps import ranked_groups

if TYPE_CHECKING:
    import pyarrow as pa

SHUFFLES = 200
FEW_PROMPTS = 30
"""Below this many prompts an interval from drawing them again is told to be too narrow."""
OF_THE_TARGET = ("model", "revision", "chat_template")
"""Settings of the target that say nothing of a proxy."""


@dataclass(frozen=True)
class Scoring:
    """What scoring by one model takes. Tokens are all that it reads, context and scored, in every pass that the recipe needs."""

    model: str
    device: str
    dtype: str
    is_chat: bool
    """Rendered by a chat template; else by plain concatenation."""
    unscored: dict[str, int]
    """Sampled rows without a score, by reason."""
    truncated: int
    """Sampled rows that are longer than the model's max_length."""
    tokens_per_second: float
    sampled_tokens: int
    sampled_seconds: float
    """Measured on the sample, forward passes alone."""
    tokens: int
    """Of all rows: those of the sample, scaled up."""
    seconds: float
    """For all rows: their tokens at the measured rate."""


@dataclass(frozen=True)
class Comparison:
    """Two models' scores of the same rows, and what a recipe makes of either."""

    data: str
    recipe: str
    seed: int
    rows: int
    refused: int
    sampled_rows: int
    sampled_prompts: int
    target: Scoring
    proxy: Scoring
    ranks: list[RankAgreement]
    kept_by_target: int
    kept_by_proxy: int
    overlap: Estimate
    """Share of the rows kept by the target's scores that are kept by the proxy's too."""
    chance: Estimate
    """The same where the proxy's scores are shuffled among the rows: mean, and the middle 95 % of the shuffles."""
    saved_seconds: float
    """Over all rows; negative where the proxy takes longer."""
    advice: str
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def compare(
    examples: Examples, target: Mapping[str, Any], proxy: str, recipe: Recipe, *, rows: int = 300, seed: int = 0
) -> Comparison:
    """Score some prompts by both models, select by either, and say how far the two agree and what the proxy would save.

    Args:
        examples: the data.
        target: fields of `ModelSettings` of the model that the recipe calls `target`.
        proxy: folder or Hub id of the model that might score in its place, rendered in its own way.
        recipe: ranks by a score of the target.
        rows: about how many rows to score, in whole prompts.
        seed: of the sample, the intervals and the shuffles.

    Raises:
        UsageError: the recipe ranks by no score of the target, or the proxy is the target.
        InputError: there is no row, one of the models can score none of the sample, or the recipe leaves nothing of it.
    """
    ranking = _ranking(recipe)
    settings = [dict(target), _standing_in(target, proxy)]
    if model_identity(proxy, None) == model_identity(target["model"], target.get("revision")):
        raise UsageError(f"--proxy {proxy}: is the target itself; name a smaller model")
    built = [recipe.build_filters(given) for given in settings]
    for filter_ in (*built[0].values(), *built[1].values()):
        for notice in filter_.check_machine():
            progress.note(notice)
        filter_.fingerprint()  # raises for a model that cannot be used, before the first row is read
    asking = _asking(recipe)
    for filters in built:
        _forward_pass([filters[name] for name in asking])
    taken = sample(examples, rows, seed=seed)
    with tempfile.TemporaryDirectory(prefix="curate-") as folder:
        others = [filter_ for name, filter_ in built[0].items() if name not in asking]
        shared = annotate(taken.examples, others, Path(folder) / "shared")
        assert isinstance(shared, Annotations)
        scored = [
            _Scored(shared, [filters[name] for name in asking], recipe, Path(folder) / place)
            for filters, place in zip(built, ("target", "proxy"), strict=True)
        ]
        return _compared(examples.name, recipe, ranking, taken, scored, seed)


def _asking(recipe: Recipe) -> list[str]:
    """The filters that ask the model of the run."""
    return [name for name, given in recipe.all_filters.items() if given.get("model") == TARGET]


def _ranking(recipe: Recipe) -> dict[int, str]:
    """The steps that order rows by a score of the target, and the field of each."""
    by_field = [(at, step) for at, step in enumerate(recipe.steps) if isinstance(step, Ranking | Mix | Order)]
    fields = {at: field for at, step in by_field for field in step.fields()}
    found = {at: field for at, field in fields.items() if field.partition(".")[0] in _asking(recipe)}
    if not found:
        others = f" (it ranks by {', '.join(dict.fromkeys(fields.values()))})" if fields else ""
        raise UsageError(
            f"--recipe {recipe.name}: ranks by no score of the target{others}, so nothing can be compared; name a recipe that "
            "ranks by a filter with `model: target`, such as familiarity-top50"
        )
    return found


def _standing_in(target: Mapping[str, Any], proxy: str) -> dict[str, Any]:
    """The settings that hold for both models; a proxy with fewer positions than --max-length sees as many tokens as it can."""
    given = {name: value for name, value in target.items() if name not in OF_THE_TARGET} | {"model": proxy}
    if given.get("max_length") is not None:
        alone = build_filter(Likelihood.name, {"model": proxy}, where="proxy")
        assert isinstance(alone, Likelihood)
        given["max_length"] = min(given["max_length"], alone.positions() or given["max_length"])
    return given


class _Scored:
    """The sample by one model's scores: what that took, and what the recipe keeps."""

    def __init__(self, shared: Annotations, filters: Sequence[Filter], recipe: Recipe, folder: Path) -> None:
        self.shared, self.recipe = shared, recipe
        forward = _forward_pass(filters)
        self.facts, self.model = forward.freeze(), forward.model
        _warm_up(forward, shared.rows)
        forget_passes()
        with progress.spending() as self.spent:
            own = annotate(shared.rows, filters, folder)
        assert isinstance(own, Annotations)
        self.stores = own.stores
        if not self.spent.tokens:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.stores[0].reasons().items())
            raise InputError(f"{self.model}: can score none of {shared.rows.count:,} sampled rows ({reasons})")
        self.selection = self._selected(self.stores)

    def _selected(self, stores: Sequence[AnnotationStore]) -> Selection:
        try:
            return select(Annotations(self.shared.rows, [*self.shared.stores, *stores]), self.recipe)
        except (RecipeError, InputError) as error:
            raise type(error)(f"by the scores of {self.model}: {error}") from error

    def scoring(self, field: str, taken: Sample) -> Scoring:
        """What it took; `field` is the score whose unscored rows are told."""
        name = field.partition(".")[0]
        (store,) = (store for store in self.stores if store.filter_name == name)
        rate = self.spent.tokens / self.spent.seconds
        tokens = round(self.spent.tokens * taken.rows / taken.sampled)
        return Scoring(
            model=self.model,
            device=self.facts["device_name"],
            dtype=self.facts["dtype"],
            is_chat=self.facts["conversational"],
            unscored=store.reasons(),
            truncated=self._truncated(name),
            tokens_per_second=rate,
            sampled_tokens=self.spent.tokens,
            sampled_seconds=self.spent.seconds,
            tokens=tokens,
            seconds=tokens / rate,
        )

    def _truncated(self, name: str) -> int:
        if "truncated" not in known_filters()[name].outputs:
            return 0
        column = self.selection.frame.column(f"{name}.truncated")
        return int((column.values & column.valid).sum())

    def shuffled(self, *, seed: int) -> Iterator[Bools]:
        """What the recipe keeps where the scores are shuffled among the rows that have them."""
        frame = self.selection.frame
        names = {store.filter_name for store in self.stores}
        fields = [name for step in self.recipe.steps for name in step.fields() if name.partition(".")[0] in names]
        rows = np.flatnonzero(np.all([frame.column(name).valid for name in fields], axis=0))
        generator = np.random.default_rng(seed)
        for _ in range(SHUFFLES):
            order = np.arange(frame.count)
            order[rows] = generator.permutation(rows)
            try:
                yield self._selected([_Shuffled(store, order) for store in self.stores]).kept
            except InputError:  # nothing is left
                yield np.zeros(frame.count, dtype=bool)


def _forward_pass(filters: Sequence[Filter]) -> ForwardPass:
    """One of the passes that filters derive their scores from. Raises UsageError where a filter has none, which nobody times."""
    for filter_ in filters:
        if not any(isinstance(needed, ForwardPass) for needed in in_order([filter_])):
            raise UsageError(f"--proxy: {filter_.name} runs the model by itself, and what that takes is not known here")
    return next(filter_ for filter_ in in_order(filters) if isinstance(filter_, ForwardPass))


def _warm_up(model: ForwardPass, rows: RowStore) -> None:
    """Load the model and score one row: the first pass pays for allocation."""
    bound = model.frozen(model.freeze())
    examples = rows.examples(rows.shards[0])[:16]
    rendered = [row for row in bound.rendered(examples, bound.renderer()) if isinstance(row, Rendered)]
    bound.run(rendered[:1])


class _Shuffled(AnnotationStore):
    """The scores of other rows."""

    def __init__(self, store: AnnotationStore, order: Ints) -> None:
        self.folder, self.plan = store.folder, store.plan
        self._store, self._order = store, order

    def read(self, index: int, columns: Sequence[str] | None = None) -> "pa.Table":
        """One shard."""
        import pyarrow as pa

        shard = self.shards[index]
        whole = pa.concat_tables(self._store.read(each.index, columns) for each in self.shards)
        return whole.take(pa.array(self._order[shard.start : shard.stop]))


def _compared(
    name: str, recipe: Recipe, ranking: Mapping[int, str], taken: Sample, scored: Sequence[_Scored], seed: int
) -> Comparison:
    by_target, by_proxy = (one.selection for one in scored)
    prompt = by_target.frame.codes("prompt_key")
    last = list(ranking.values())[-1]
    target, proxy = (one.scoring(last, taken) for one in scored)
    shares = np.array([shared_share(by_target.kept, kept) for kept in scored[1].shuffled(seed=seed)])
    found = Comparison(
        data=name,
        recipe=recipe.name,
        seed=seed,
        rows=taken.rows,
        refused=taken.refused,
        sampled_rows=taken.sampled,
        sampled_prompts=taken.prompts,
        target=target,
        proxy=proxy,
        ranks=[_agreement(at, field, by_target, by_proxy, prompt, seed) for at, field in ranking.items()],
        kept_by_target=int(by_target.kept.sum()),
        kept_by_proxy=int(by_proxy.kept.sum()),
        overlap=overlap(by_target.kept, by_proxy.kept, prompt, seed=seed),
        chance=middle_of(float(shares.mean()), shares),
        saved_seconds=target.seconds - proxy.seconds,
        advice="",
        notes=_notes(taken, target, proxy, recipe),
    )
    return replace(found, advice=advice(found))


def _agreement(at: int, field: str, target: Selection, proxy: Selection, prompt: Ints, seed: int) -> RankAgreement:
    step = target.recipe.steps[at]
    left, right = (selection.frame.column(field) for selection in (target, proxy))
    rows = np.flatnonzero(target.after(at) & left.valid & right.valid)
    a, b, prompts = left.values[rows], right.values[rows], prompt[rows]
    groups = np.zeros_like(rows)
    sizes: dict[str, int] = {}
    for name, places, codes in ranked_groups(target.frame, rows, _within(step)):
        groups[places] = codes + int(groups.max()) + 1
        sizes[name] = len(places)
    return RankAgreement(
        step=str(step),
        field=field,
        rows=len(rows),
        overall=agreement(a, b, np.zeros_like(rows), prompts, seed=seed),
        within=agreement(a, b, groups, prompts, seed=seed),
        groups=sizes,
    )


def _within(step: Step) -> Sequence[str]:
    if isinstance(step, Ranking):
        return step.within
    return ("source",) if isinstance(step, Mix) else ("dataset",)


def advice(found: Comparison) -> str:
    """One sentence: what would change, or why that cannot be told. It calls nothing good enough: no outcome was measured."""
    if found.saved_seconds <= 0:
        return "By these times the proxy takes as long as the target: it would save nothing."
    time = f"{duration(found.proxy.seconds)} instead of {duration(found.target.seconds)}"
    share, chance = found.overlap, found.chance
    if chance.low == 1:
        return _of_order(found.ranks[-1], time)
    if share.low <= chance.value or share.value <= chance.high:
        return "On these rows the proxy keeps no more of the target's rows than random scores may: nothing here speaks for it."
    lost, least, most = (f"{1 - value:.0%}" for value in (share.value, share.high, share.low))
    return (
        f"Scored by the proxy ({time}), {lost} ({least} to {most}) of the rows that the target's scores keep would be left out, "
        f"with random scores {1 - chance.value:.0%}; what that does to training only a trial can say."
    )


def _of_order(last: RankAgreement, time: str) -> str:
    """Where the same rows are kept whatever the scores are, only their order can differ."""
    if not last.step.startswith(Order.word) or last.overall is None:
        return "On these rows the recipe keeps the same ones whatever the scores are: they cannot tell what a proxy would change."
    if last.overall.low <= 0:
        return (
            "On these rows the proxy's order agrees with the target's no more than random ones may: nothing here speaks for it."
        )
    return (
        f"Scored by the proxy ({time}), the same rows would be kept in another order (rank correlation "
        f"{last.overall.value:.2f}); what that does to training only a trial can say."
    )


def _notes(taken: Sample, target: Scoring, proxy: Scoring, recipe: Recipe) -> list[str]:
    found = []
    if taken.prompts < FEW_PROMPTS:
        found.append(f"only {taken.prompts} prompts were sampled: the intervals are too narrow; ask for more rows (--rows)")
    if taken.cut_prompts:
        found.append(f"{taken.cut_prompts} prompts have more than {MOST_PER_PROMPT} responses, of which as many were taken")
    known = recipe.build_filters({"model": TARGET})
    if corpus := [name for name, filter_ in known.items() if filter_.needs_corpus()]:
        found.append(f"{', '.join(corpus)} compare rows with the rest of the data, here with the sample alone")
    if target.is_chat != proxy.is_chat:
        which, layout = ("has no", "strings") if target.is_chat else ("has a", "message lists")
        found.append(
            f"the proxy {which} chat template, unlike the target: a run that scores by it writes kept rows as {layout}, in the "
            "layout in which they were scored"
        )
    return found
