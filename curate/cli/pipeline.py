"""The pipeline and its stages: run, annotate, select."""

from pathlib import Path
from typing import Any

import click

from curate.cli.group import cli
from curate.cli.options import (
    FOLDER,
    json_option,
    load_plugins,
    plugin_option,
    print_json,
    recipe_option,
    run_arguments,
    run_options,
)


@cli.command(hidden=True)
@click.argument("data", required=False)
@recipe_option("A shipped recipe's name or a YAML file.")
@click.option("--trial", "with_trial", is_flag=True, help="Then try it, as `curate trial` does: fine-tune, evaluate, judge.")
@run_options
@json_option
def run(data: str | None, recipe: str, with_trial: bool, as_json: bool, **options: Any) -> None:
    """Read, score and select: the whole pipeline.

    \b
    Example:
        curate --recipe familiarity-top50 train.jsonl --model Qwen/Qwen2.5-0.5B-Instruct --out out/
    """
    from curate import console, pipeline, progress

    arguments = run_arguments(options)
    with progress.shown():
        result = pipeline.run(recipe, data, **arguments)
    found = {"out": str(result.out), **result.report.to_dict()}
    if not as_json:
        console.show_run(result)
    if with_trial:
        found["trial"] = _trial(result.out, recipe, arguments["model"], as_json=as_json)
    if as_json:
        print_json(found)


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
@click.argument("out", metavar="DIR", type=FOLDER)
@recipe_option("A shipped recipe's name or a YAML file.")
@click.option("--model", "-m", help="Whose scores, where the folder holds those of several models.")
@plugin_option
@json_option
def select(out: Path, recipe: str, model: str | None, plugins: tuple[Path, ...], as_json: bool) -> None:
    """Apply a recipe to rows that are scored already.

    It takes seconds and needs no model.

    \b
    Example:
        curate select out/ --recipe mine.yaml
    """
    from curate import console, pipeline, progress

    load_plugins(plugins)
    with progress.shown():
        result = pipeline.select_again(out, recipe, model=model)
    print_json({"out": str(result.out), **result.report.to_dict()}) if as_json else console.show_run(result)
