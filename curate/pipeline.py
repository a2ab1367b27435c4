"""run(): the whole way from a source to a selection, each stage resumable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate import _fs, progress
from curate.annotations import Annotations, annotate, load_annotations
from curate.errors import UsageError
from curate.examples import Examples, load_examples
from curate.filters import Filter, Likelihood, build_filter
from curate.recipes import Recipe, load_recipe
from curate.reference import model_path, sample_path
from curate.rows import SHARD_ROWS
from curate.selection import Selection, SelectionReport, select
from curate.selection.evidence import DETECTORS

if TYPE_CHECKING:
    from curate.hub import Pushed
    from curate.publication import Recut


@dataclass(frozen=True)
class RunResult:
    """What a run made and where it lies."""

    out: Path
    report: SelectionReport
    selection: Selection


def run(
    recipe: str | Path | Recipe,
    data: Any = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    reuse: Sequence[Path] = (),
    shard_rows: int = SHARD_ROWS,
    **loading: Any,
) -> RunResult:
    """Load, annotate and select; run again after any interruption and it goes on where it stopped.

    Args:
        recipe: a shipped recipe's name, a YAML file, or a Recipe.
        data: anything that `load_examples` takes; without it, the packaged sample with the packaged model.
        model: what the recipe calls `target`: a folder or Hub id, or a mapping of the fields of `ModelSettings`.
        out: folder of rows, annotations and selection; default `curated/NAME`, after the data (`curated/sample` without).
        reuse: folders of earlier runs whose annotations of equal rows are taken over.
        shard_rows: rows per unit of work.
        loading: `columns`, `revision`, `split`, `limit` of `load_examples`.
    """
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    job = _prepare(chosen, data, model, out, reuse, loading)
    with _fs.run_folder(job.out):  # one lock over both stages: nobody may change the scores before they are read
        annotations = job.annotate(shard_rows)
        return _finish(job.out, annotations, chosen, model=None)


def annotate_only(
    recipe: str | Path | Recipe,
    data: Any = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    reuse: Sequence[Path] = (),
    shard_rows: int = SHARD_ROWS,
    **loading: Any,
) -> tuple[Path, Annotations]:
    """The first half of `run`: rows and scores, no decision. Returns the folder and what it holds."""
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    job = _prepare(chosen, data, model, out, reuse, loading)
    return job.out, job.annotate(shard_rows)


@dataclass(frozen=True)
class _Job:
    """A run whose arguments are known to be good."""

    out: Path
    examples: Examples
    filters: Sequence[Filter]
    reuse: Sequence[Path]

    def annotate(self, shard_rows: int) -> Annotations:
        """Rows and scores."""
        annotations = annotate(self.examples, self.filters, self.out, reuse=self.reuse, shard_rows=shard_rows)
        assert isinstance(annotations, Annotations)
        for notice in self.examples.notices:
            progress.note(notice)
        return annotations


def _prepare(
    recipe: Recipe,
    data: Any,
    model: str | Mapping[str, Any] | None,
    out: str | Path | None,
    reuse: Sequence[Path],
    loading: Mapping[str, Any],
) -> _Job:
    """Find everything that can be wrong with a run before the first row is read."""
    filters = list(recipe.build_filters(target_model(model, data, is_needed=recipe.needs_model)).values())
    for notice in [notice for filter_ in filters for notice in filter_.check_machine()]:
        progress.note(notice)
    for filter_ in filters:
        filter_.fingerprint()  # raises for a model, template or length that cannot be used
    for earlier in reuse:
        if not (earlier / "annotations").is_dir():
            raise UsageError(f"--reuse {earlier}: holds no annotations")
    examples = load_data(data, **loading)
    folder = Path(out) if out is not None else default_out("sample" if data is None else examples.name)
    if isinstance(data, (str, Path)) and Path(data).is_dir() and folder.resolve().is_relative_to(Path(data).resolve()):
        raise UsageError(f"{folder}: lies inside the data folder {data} and would be read as data; choose another with --out")
    return _Job(folder, examples, filters, reuse)


def _finish(out: Path, annotations: Annotations, recipe: Recipe, *, model: str | None) -> RunResult:
    """Select and write."""
    selection = select(annotations, recipe, model=model)
    selection.save(out)
    return RunResult(out, selection.report, selection)


def select_again(out: Path, recipe: str | Path | Recipe, *, model: str | None = None) -> RunResult:
    """Apply a recipe to the annotations of an earlier run: no model, no network, no scoring."""
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    annotations = load_annotations(out)
    with _fs.run_folder(out):
        return _finish(out, annotations, chosen, model=model)


PUBLICATION = "publication"
"""Folder in a run's folder that holds what is published of it."""


def publication_folder(out: Path) -> Path:
    """Where a run's publication is built."""
    return out / PUBLICATION


def publish(
    out: Path,
    repo: str,
    *,
    private: bool | None = None,
    license: str | None = None,
    private_source: bool | None = None,
    with_rejected: bool = False,
    with_examples: bool = False,
    tag: str | None = None,
    revision: str = "main",
    dry_run: bool = False,
) -> "Pushed":
    """Build what is published of a run (`curate.publication.build`) and push it (`curate.hub.push`); both say what they raise."""
    from curate.hub import checked_repo, push, require_tag
    from curate.publication import build

    repo = checked_repo(repo)  # before hundreds of megabytes are written
    require_tag(tag)
    with _fs.run_folder(out):  # nobody may build another publication while this one is sent
        bundle = build(
            out,
            publication_folder(out),
            public=private is False,
            with_rejected=with_rejected,
            private_source=private_source,
            license=license,
            repo=repo,
            with_examples=with_examples,
        )
        return push(bundle, repo, private=private, tag=tag, revision=revision, dry_run=dry_run)


def select_published(
    source: str, recipe: str | Path | Recipe, *, out: Path | None = None, revision: str | None = None, model: str | None = None
) -> "Recut":
    """Apply a recipe to a publication: no model, no network but for the files, no scoring."""
    from curate.publication import recut

    return recut(source, recipe, out or default_out(source.partition("@")[0]), revision=revision, model=model)


DEMO = "demo"
"""The recipe whose trial settings were measured on the packaged sample and model."""


def folder_to_try(out: Path | None, recipe: str | Path | None, model: Mapping[str, Any] | None) -> tuple[Path, str | Path | None]:
    """The folder and recipe of a trial: as given; without a folder, the packaged sample is run through the recipe first."""
    if out is not None:
        return out, recipe
    recipe = recipe or DEMO
    return run(recipe, None, model=model).out, recipe


def load_data(data: Any, **loading: Any) -> Examples:
    """The examples of `data`, or the packaged sample."""
    return load_examples(sample_path() if data is None else data, **loading)


def target_model(model: str | Mapping[str, Any] | None, data: Any, *, is_needed: bool) -> Mapping[str, Any] | None:
    """Settings of the model of the run: as given; for the packaged sample the packaged model; else None."""
    settings = {"model": model} if isinstance(model, str) else dict(model or {})
    if "model" not in settings:
        if data is not None or not is_needed:
            return None
        settings["model"] = str(model_path())
    return settings


def likelihood_of(model: str | Mapping[str, Any] | None, data: Any) -> Likelihood | None:
    """The likelihood filter of the model of the run, or None without a model."""
    settings = target_model(model, data, is_needed=True)
    if settings is None:
        return None
    found = build_filter(Likelihood.name, settings, where="model")
    assert isinstance(found, Likelihood)
    return found


def detectors_of(
    recipe: str | Path | None, model: Mapping[str, Any] | None, classifier: str | None, human: Sequence[str]
) -> list[Filter]:
    """The detectors to calibrate: those of a recipe with its settings, else the learned one and those of a model or classifier.

    Raises UsageError for a recipe that has none.
    """
    if recipe is not None:
        built = load_recipe(recipe).build_filters(model)
        found = [filter_ for name, filter_ in built.items() if name in DETECTORS]
        if not found:
            raise UsageError(f"--recipe {recipe}: has no detector to calibrate; detectors are {', '.join(DETECTORS)}")
        return found
    given: dict[str, Mapping[str, Any]] = {"learned_detector": {"human": tuple(human)}}
    if model is not None:
        given["detectors"] = model
    if classifier is not None:
        given["detector_model"] = {"classifier": classifier}
    return [build_filter(name, settings, where="calibrate") for name, settings in given.items()]


def default_out(name: str) -> Path:
    """`curated/train` for train.jsonl.gz, `curated/name` for org/name."""
    stem = Path(name.rstrip("/")).name
    while Path(stem).suffix in (".gz", ".zst", ".bz2", ".xz", ".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow"):
        stem = Path(stem).stem
    return Path("curated") / ("".join(c if c.isalnum() or c in "-_." else "-" for c in stem).strip("-.") or "data")
