"""The pipeline and its stages: run, annotate, select."""

from pathlib import Path
from typing import Any

import click

from curate.cli.group import cli
from curate.cli.options import (
    json_option,
    load_plugins,
    plugin_option,
    print_json,
    push_options,
    recipe_option,
    run_arguments,
    run_options,
)
from curate.errors import CurateError, UsageError


@cli.command(hidden=True)
@click.argument("data", required=False)
@recipe_option("A shipped recipe's name or a YAML file.")
@click.option("--trial", "with_trial", is_flag=True, help="Then try it, as `curate trial` does: fine-tune, evaluate, judge.")
@click.option("--push", "repo", metavar="USER/NAME", help="Last, publish it, as `curate push` does.")
@push_options
@run_options
@json_option
def run(data: str | None, recipe: str, with_trial: bool, repo: str | None, as_json: bool, **options: Any) -> None:
    """Read, score and select: the whole pipeline.

    \b
    Example:
        curate --recipe familiarity-top50 train.jsonl --model Qwen/Qwen2.5-0.5B-Instruct --out out/
    """
    from curate import console, pipeline, progress

    arguments = run_arguments(options)
    said = {name for name, value in options.items() if value is not None and (value or name.startswith("private"))}
    if repo is None and said:
        raise UsageError("options of a push were given; name the repository with --push USER/NAME")
    if repo is not None:
        from curate.hub import require_access

        repo = require_access(repo)  # before hours of work
    with progress.shown():
        result = pipeline.run(recipe, data, **arguments)
    found = {"out": str(result.out), **result.report.to_dict()}
    if not as_json:
        console.show_run(result)
    if with_trial:
        found["trial"] = _trial(result.out, recipe, arguments["model"], as_json=as_json)
    if repo is not None:
        found["push"] = _push(result.out, repo, options, as_json=as_json)
    if as_json:
        print_json(found)


def _push(out: Path, repo: str, options: dict[str, Any], *, as_json: bool) -> dict[str, Any]:
    from curate import pipeline, progress
    from curate.console.publishing import show_pushed

    try:
        with progress.shown():
            pushed = pipeline.publish(out, repo, **options)
    except CurateError as error:
        error.args = (f"{error}; the run itself is finished: `curate push {out} {repo}` goes on from here",)
        raise
    if not as_json:
        show_pushed(pushed, pipeline.publication_folder(out))
    return pushed.to_dict()


def _trial(out: Path, recipe: str, model: dict[str, Any] | None, *, as_json: bool) -> dict[str, Any]:
    from curate import progress, trials
    from curate.console.trial import show_trial

    with progress.shown():
        result = trials.run_trial(trials.prepare(out, recipe, model=model))
    if not as_json:
        show_trial(result)
    return result.to_dict()


@cli.command()
@click.argument("data", required=False)
@recipe_option("The recipe whose filters score the rows.")
@run_options
@json_option
def annotate(data: str | None, recipe: str, as_json: bool, **options: Any) -> None:
    """Read and score rows, and decide nothing yet.

    \b
    Example:
        curate annotate train.jsonl --recipe familiarity-top50 --model ./my-model --out out/
    """
    from curate import pipeline, progress

    arguments = run_arguments(options)
    with progress.shown():
        folder, annotations = pipeline.annotate_only(recipe, data, **arguments)
    stores = [store.folder.name for store in annotations.stores]
    if as_json:
        print_json(
            {"out": str(folder), "rows": annotations.rows.count, "refused": annotations.rows.refused, "annotations": stores}
        )
    else:
        click.echo(f"{annotations.rows.count:,} rows annotated in {folder}: {', '.join(stores)}")
        click.echo(f"next: curate select {folder} --recipe {recipe}")


@cli.command()
@click.argument("source", metavar="DIR")
@recipe_option("A shipped recipe's name, a YAML file, or hf://datasets/USER/NAME.")
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), help="Folder of the new cut, for a publication.  [default: curated/NAME]"
)
@click.option("--revision", help="Commit, branch or tag of a publication on the Hub.")
@click.option("--model", "-m", help="Whose scores, where the folder holds those of several models.")
@plugin_option
@json_option
def select(
    source: str, recipe: str, out: Path | None, revision: str | None, model: str | None, plugins: tuple[Path, ...], as_json: bool
) -> None:
    """Apply a recipe to rows that are scored already.

    It takes seconds and needs no model. DIR is the folder of a run, or what somebody published: a publication's folder or
    hf://datasets/USER/NAME, from which a new cut is made.

    \b
    Example:
        curate select out/ --recipe mine.yaml
        curate select hf://datasets/USER/NAME --recipe mine.yaml --out mine/
    """
    from curate import console, pipeline, progress
    from curate.publication import is_publication

    load_plugins(plugins)
    is_published = is_publication(source)
    if not is_published and (out is not None or revision is not None):
        raise UsageError("--out and --revision are for publications; the selection of a run stands in its folder")
    if not is_published and not Path(source).is_dir():
        raise UsageError(f"{source}: no such folder; name a run's folder or hf://datasets/USER/NAME")
    with progress.shown():
        if is_published:
            result: Any = pipeline.select_published(source, recipe, out=out, revision=revision, model=model)
        else:
            result = pipeline.select_again(Path(source), recipe, model=model)
    print_json({"out": str(result.out), **result.report.to_dict()}) if as_json else console.show_run(result)
