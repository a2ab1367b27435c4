"""How surprised the model is by every token of a few rows: as `token_nll` stored it, else scored when the report is written."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from curate.annotations import AnnotationStore
from curate.errors import CurateError, UsageError
from curate.filters import TokenNll
from curate.filters.likelihood import Likelihood
from curate.filters.model_settings import ModelSettings
from curate.likelihood import Rendered, model_identity
from curate.reports.figures import FAMILIARITY
from curate.reports.run_data import RunData, model_facts
from curate.reports.text import name_of, rounded, visible
from curate.selection.frame import Ints

TOKENS = TokenNll.name
LARGEST = 500_000_000
"""Bytes of weights above which a report does not load the model unless it is asked to."""
MOST_TOKENS = 240
"""Tokens shown of a row."""
BOUNDS = (0.1, 0.5, 1.0, 2.0, 3.0, 4.5, 6.0, 8.0, 10.0)
"""Nats at which the shading gets a step darker."""
_BROKEN = "\ufffd"


def choose_surprise(run: RunData, most: int) -> list[tuple[int, str]]:
    """Rows worth a closer look, with why: half of them nearest to the cut, the others the most and least familiar."""
    field = next((name for name in FAMILIARITY if run.has(name)), None)
    if field is None or most < 1:
        return []
    column = run.column(field)
    scored = np.flatnonzero(column.valid)
    by_value: Ints = scored[np.lexsort((scored, column.values[scored]))]
    measured = scored[np.isfinite(run.margin[scored])]
    near: Ints = measured[np.lexsort((measured, np.abs(run.margin[measured])))]
    found: dict[int, str] = {}
    half, quarter = (most + 1) // 2, most // 4
    for rows, why in (
        (near[run.kept[near]][: half // 2], "nearest to the cut"),
        (near[~run.kept[near]][: half - half // 2], "nearest to the cut"),
        (by_value[:quarter], "most familiar"),
        (by_value[::-1][:quarter], "most surprising"),
        (by_value[np.linspace(0, len(by_value) - 1, min(most, len(by_value))).astype(int)], "in between"),
    ):
        for row in rows.tolist():
            if len(found) < most:
                found.setdefault(row, why)
    return list(found.items())


def shaded_rows(run: RunData, chosen: list[tuple[int, str]], wanted: bool | None) -> dict[str, Any]:
    """The chosen rows with every token's surprise, or why there are none. Raises what loading raises where it was asked for."""
    why_not = None if chosen else "no filter of this run asks a model for the likelihood of completions; `perplexity` would"
    if wanted is False:
        why_not = why_not or "it was not asked for"
    try:
        filter_ = None if why_not else _filter(run, is_wanted=bool(wanted))
        rows = [] if filter_ is None else _scored(run, chosen, filter_)
    except CurateError as error:
        if wanted:
            raise
        rows, why_not = [], run.shown(str(error))
    return {
        "rows": rows,
        "why_not": why_not,
        "legend": [*_legend()],
        "model": (run.model or {}).get("name"),
        "is_stored": bool(rows) and _is_stored(run),
    }


def _filter(run: RunData, *, is_wanted: bool) -> Likelihood:
    """The forward pass as the run's own filter has it. Raises UsageError where its model is not to be had.

    Where the tokens' losses are stored, the tokenizer is all that is needed of the model.
    """
    name = TOKENS if _is_stored(run) else _familiarity(run)
    plan, facts = run.plans.get(name), model_facts(run.lock["annotations"][name]["fingerprint"])
    if plan is None or facts is None:
        raise UsageError("this folder does not say where the model that scored it lies")
    parameters = plan["parameters"]
    where = str(parameters["model"])
    folder = Path(where)
    if not is_wanted and not folder.is_dir():
        raise UsageError("the model that scored these rows is not a folder here, and a report loads nothing from the network")
    if model_identity(where, parameters.get("revision")) != facts["model"]:
        raise UsageError("the model at that place is no longer the one that scored these rows")
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder.is_dir() else 0
    if size > LARGEST and not is_wanted and name != TOKENS:
        raise UsageError(f"the model's weights are {size / 1e9:.1f} GB, which takes long to load; ask for it to have it done")
    settings = {key: parameters[key] for key in ModelSettings.model_fields if key in parameters}
    return Likelihood(**(settings | {"dtype": facts.get("dtype", "auto")}))


def _familiarity(run: RunData) -> str:
    """The filter by whose scores rows are chosen."""
    return next(name.partition(".")[0] for name in FAMILIARITY if run.has(name))


def _is_stored(run: RunData) -> bool:
    """Whether the run holds the losses of single tokens, of the model by whose scores rows are chosen."""
    if TOKENS not in run.plans:
        return False
    one, other = (model_facts(run.lock["annotations"][name]["fingerprint"]) for name in (TOKENS, _familiarity(run)))
    return one is not None and other is not None and bool(one["model"] == other["model"])


def _losses(run: RunData, filter_: Likelihood) -> Callable[[int, Rendered], list[float] | None]:
    """What gives the negative log-likelihoods of a row's trained tokens, in nats; None where it is not scored."""
    if not _is_stored(run):
        engine = filter_.engine()
        return lambda _, tokens: list(engine.token_statistics([tokens])[0][:, 0].tolist())
    store = AnnotationStore(run.out / "annotations" / run.lock["annotations"][TOKENS]["folder"])

    def stored(row: int, tokens: Rendered) -> list[float] | None:
        shard = next(shard for shard in store.shards if shard.start <= row < shard.stop)
        (record,) = store.read(shard.index, [f"{TOKENS}.nll"])[TOKENS].slice(row - shard.start, 1).to_pylist()
        found: list[float] | None = record["nll"]
        if found is not None and len(found) != tokens.trained:
            raise UsageError(f"the tokenizer no longer makes the tokens that were scored (row {row}); score again to see them")
        return found

    return stored


def _scored(run: RunData, chosen: list[tuple[int, str]], filter_: Likelihood) -> list[dict[str, Any]]:
    losses, renderer = _losses(run, filter_), filter_.renderer()
    examples = {row: example for row in sorted({row for row, _ in chosen}) if (example := _example(run, row))}
    rendered = dict(zip(examples, filter_.rendered(list(examples.values()), renderer), strict=True))
    found = []
    for row, why in chosen:
        tokens = rendered[row]
        if not isinstance(tokens, Rendered):
            continue
        turn = tokens.turns[-1]
        first, end = turn.content
        trained = losses(row, tokens)
        if trained is None or first == end:
            continue
        shown = min(end, first + MOST_TOKENS)
        # The last turn's losses end the list.
        nll = trained[len(trained) - turn.stop + first : len(trained) - turn.stop + shown]
        step = int(run.rejected_by[row])
        found.append(
            {
                "row": row,
                "why": why,
                "source": name_of(run.source_names[run.source[row]]),
                "decision": "kept" if step < 0 else "rejected",
                "step": None if step < 0 else run.shown(run.step_names[step]),
                "prompt": examples[row].prompt_text[:400],
                "mean": rounded(sum(nll) / len(nll), 3),
                "tokens": _pieces(renderer.tokenizer, tokens.input_ids[first:shown], nll),
                "count": end - first,
                "left_out": end - shown,
            }
        )
    return found


def _example(run: RunData, row: int) -> Any:
    shard = next(shard for shard in run.rows.shards if shard.start <= row < shard.stop)
    return run.rows.examples(shard)[row - shard.start]


def _pieces(tokenizer: Any, ids: Any, nll: list[float]) -> list[dict[str, Any]]:
    """Text and surprise of the tokens; those that only together make a character stand together."""
    pieces: list[dict[str, Any]] = []
    done, held = "", []
    for at in range(len(ids)):
        held.append(nll[at])
        text = str(tokenizer.decode(list(ids[: at + 1]), clean_up_tokenization_spaces=False))
        if text.endswith(_BROKEN) and at + 1 < len(ids):
            continue
        total = sum(held)
        title = f"{total:.2f} nats" + (f", {len(held)} tokens" if len(held) > 1 else "")
        pieces.append({"text": visible(text[len(done) :]), "level": level(total), "title": title})
        done, held = text, []
    return [piece for piece in pieces if piece["text"]]


def level(nll: float) -> int:
    """Step of the shading, 0 to 9."""
    return sum(nll >= bound for bound in BOUNDS)


def _legend() -> list[Mapping[str, Any]]:
    edges = (0.0, *BOUNDS)
    return [
        {"level": at, "text": f"{low:g} to {BOUNDS[at]:g}" if at < len(BOUNDS) else f"{low:g} and more"}
        for at, low in enumerate(edges)
    ]
