"""Another cut of a publication: restored as a run's folder, and on that folder the one `select` there is."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from curate import _fs
from curate.annotations import Annotations
from curate.errors import InputError, IntegrityError, RecipeError, UsageError
from curate.examples.record import excerpt
from curate.publication.opened import Publication, open_publication
from curate.publication.restoring import Restored, restore
from curate.recipes import Recipe, load_recipe
from curate.recipes.schema import TARGET
from curate.rows import MANIFEST
from curate.selection import Selection, SelectionReport, select
from curate.selection.frame import Bools, Ints

HASHES = "row_hashes.parquet"
"""In the folder of a cut from a publication that does not hold all rows: what `curate diff` knows them by."""

_OF_NO_ROWS = (".lock", "curate.json")
"""What a run's folder holds before anything is committed to it."""


@dataclass(frozen=True)
class Recut:
    """A new selection from a publication, and where it lies."""

    out: Path
    report: SelectionReport
    selection: Selection
    publication: str
    commit: str | None
    is_whole: bool
    """Whether every row was published: the folder is then a run like any other. Else it holds the selection alone."""


def recut(
    source: str | Path | Publication,
    recipe: str | Path | Recipe,
    into: str | Path,
    *,
    revision: str | None = None,
    model: str | None = None,
) -> Recut:
    """Apply another recipe to a publication, without model or GPU; writes into the folder `into` what `curate select` writes.

    Raises RecipeError where the recipe asks for scores that were not published, InputError where it would keep such rows.
    """
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    publication = source if isinstance(source, Publication) else open_publication(source, revision=revision)
    _require_scores(publication, chosen)
    out = Path(into)
    _require_ours(out)
    with _left_as_it_was(out), _fs.run_folder(out):
        work = out / f"{_fs.TEMPORARY}recut"
        shutil.rmtree(work, ignore_errors=True)
        try:
            restored, selection, report = _cut(publication, chosen, model, work)
            is_whole = bool(restored.published.all())
            if is_whole:
                (out / HASHES).unlink(missing_ok=True)
            else:
                _fs.commit_table(out / HASHES, publication.scores(["row", "row_hash"]))
            _move(work, out, is_whole=is_whole)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        restored.annotations.rows.folder = out / "rows"
    return Recut(out, report, selection, publication.name, publication.commit, is_whole)


@contextlib.contextmanager
def _left_as_it_was(out: Path) -> Iterator[None]:
    """A folder that was new or empty is so again where nothing could be put into it."""
    was_there = out.is_dir()
    was_new = not was_there or not any(out.iterdir())
    try:
        yield
    except BaseException:
        if was_new and out.is_dir() and {path.name for path in out.iterdir()} <= set(_OF_NO_ROWS):
            for name in _OF_NO_ROWS:
                (out / name).unlink(missing_ok=True)
            if not was_there:
                out.rmdir()
        raise


def _cut(publication: Publication, recipe: Recipe, model: str | None, work: Path) -> tuple[Restored, Selection, SelectionReport]:
    """Restore the run in the folder `work`, select, and write the selection beside it."""
    from curate.selection.output import save_selection

    with _fs.run_folder(work):
        restored = restore(publication, work)
        if len(restored.changed):
            raise IntegrityError(f"{publication.name}: {_changed(restored.changed)}; ask its owner for a new push")
        selection = decide(publication, restored.annotations, recipe, model)
        _require_published(publication, selection, restored.published)
        report = _honest(selection.report, restored.published)
        save_selection(selection, report, work)
    return restored, selection, report


def _require_ours(out: Path) -> None:
    """Refuse the folder of a run that was not cut from a publication."""
    if (out / "rows" / MANIFEST).is_file() or (out / "lock.json").is_file():
        lock = _fs.read_json(out / "lock.json") if (out / "lock.json").is_file() else {}
        if "publication" not in lock.get("input", {}):
            raise UsageError(f"{out}: holds a run of its own; choose another folder with --out")


def _require_scores(publication: Publication, recipe: Recipe) -> None:
    """Raise RecipeError where a recipe needs scores that were not published."""
    there = publication.filters()
    lacking = sorted(set(recipe.all_filters) - set(there))
    if lacking:
        steps = [str(step) for step in recipe.steps if any(field.partition(".")[0] in lacking for field in step.fields())]
        needs = f" (`{steps[0]}`)" if steps else ""
        raise RecipeError(
            f"{recipe.name}: asks for the scores of {', '.join(lacking)}{needs}, which {publication.name} does not hold; "
            f"it holds those of {', '.join(sorted(there)) or 'no filter'}: they need the rows' text, so score the rows anew"
        )
    for step in recipe.steps:
        for field in step.fields():
            name, _, output = field.partition(".")
            if output not in there[name]:
                why = "was left out of the push" if field in publication.checked.left_out else "was not published"
                raise RecipeError(f"{recipe.name}: `{step}` reads {field}, which {why} ({publication.name})")


def decide(publication: Publication, annotations: Annotations, recipe: Recipe, model: str | None = None) -> Selection:
    """The selection that a recipe makes; looks no model up that the publication names in the same words."""
    filters = dict(recipe.filters)
    for name, given in publication.facts["recipe"].get("filters", {}).items():
        if name in filters and isinstance(given, dict) and given.get("model") == filters[name].get("model") is not None:
            filters[name] = {**filters[name], "model": TARGET}
    asked = recipe.model_copy(update={"filters": filters})
    _require_parameters(publication, annotations, asked, model)
    selection = select(annotations, asked, model=model)
    selection.recipe = recipe
    return selection


def _require_parameters(publication: Publication, annotations: Annotations, recipe: Recipe, model: str | None) -> None:
    """Raise RecipeError where the recipe wants a filter with other parameters, or of another model, than the scores are of."""
    for name, filter_ in recipe.build_filters({"model": TARGET}).items():
        try:
            annotations.choose({name: filter_}, model=model)
        except RecipeError as error:
            (store,) = (store for store in annotations.stores if store.filter_name == name)
            found = excerpt(json.dumps(store.plan["parameters"], ensure_ascii=False, sort_keys=True), length=300)
            wanted = "" if model is None else f" of {model}"
            raise RecipeError(
                f"{recipe.name}: asks for the scores of {name}{wanted} with other parameters or of another version than "
                f"{publication.name} holds, which are of version {store.plan['fingerprint']['version']} with {found}"
            ) from error


def _require_published(publication: Publication, selection: Selection, published: Bools) -> None:
    """Raise InputError where rows would be kept whose text is not there."""
    wanting = np.flatnonzero(selection.kept & ~published)
    if not len(wanting):
        return
    first = ", ".join(map(str, wanting[:10].tolist())) + (" ..." if len(wanting) > 10 else "")
    scores = publication.facts
    advice = (
        "ask for another push, it holds too few"
        if publication.has_rejected
        else "ask its owner to push with --with-rejected, or choose a cut inside the published one"
    )
    raise InputError(
        f"{selection.recipe.name}: would keep {len(wanting):,} rows that were not published (rows {first}); "
        f"{publication.name} holds the text of {int(published.sum()):,} of {scores['rows']:,} rows: {advice}"
    )


def _honest(report: SelectionReport, published: Bools) -> SelectionReport:
    """The report without what would need the text of rows that are not there."""
    if published.all() or report.diversity is None:
        return report
    note = "self-BLEU before and after is not given: it needs the text of all rows, and the rejected ones were not published"
    return replace(report, diversity=None, warnings=[*report.warnings, note])


def _move(work: Path, out: Path, *, is_whole: bool) -> None:
    """Put the finished parts in their place; the lock, which speaks of them, last."""
    lock = _fs.read_json(work / "lock.json")
    for name in ("rows", "annotations"):
        if is_whole:
            _fs.replace_folder(work / name, out / name)
        else:
            shutil.rmtree(out / name, ignore_errors=True)
    if not is_whole:  # the restored rows are not all there, so the folder does not claim to hold them
        lock["files"] = {path: digest for path, digest in lock["files"].items() if path.startswith("selection/")}
    _fs.replace_folder(work / "selection", out / "selection")
    _fs.commit_json(out / "lock.json", lock)


def _changed(rows: Ints) -> str:
    first = ", ".join(map(str, rows[:10].tolist())) + (" ..." if len(rows) > 10 else "")
    return f"{len(rows):,} rows do not hold the text that was scored (rows {first})"
