"""Commands that show something and change nothing: preview, quote, explain, verify, filters, recipes, check."""

from pathlib import Path
from typing import Any

import click

from curate.cli.group import cli
from curate.cli.options import (
    FOLDER,
    json_option,
    load_plugins,
    loading,
    loading_options,
    model_options,
    plugin_option,
    print_json,
    target,
)
from curate.errors import UsageError


@cli.command()
@click.argument("out", metavar="DIR", type=FOLDER)
@click.argument("row", type=int)
@json_option
def explain(out: Path, row: int, as_json: bool) -> None:
    """Say why one row was kept or rejected.

    \b
    Example:
        curate explain out/ 17
    """
    from curate import console
    from curate.selection import explain as explain_row

    entry = explain_row(out, row)
    print_json(entry) if as_json else console.show_explanation(entry)


@cli.command()
@click.argument("data", required=False)
@click.option("--rows", default=3, show_default=True, type=click.IntRange(1, 100), help="How many rows to show.")
@loading_options
@model_options
@json_option
def preview(data: str | None, rows: int, as_json: bool, **options: Any) -> None:
    """Show the layout and a few rows as the model sees them.

    The tokens that bear loss, which are those that are scored, are marked.

    \b
    Example:
        curate preview train.jsonl --model Qwen/Qwen2.5-0.5B-Instruct
    """
    from curate import console, inspection, pipeline

    examples = pipeline.load_data(data, **loading(options))
    model = target(options)
    names = (model or {}).get("normalise", ())
    shown = inspection.preview(examples, pipeline.likelihood_of(model, data), rows=rows, normalise=names)
    print_json(shown.to_dict()) if as_json else console.show_preview(shown)


@cli.command()
@click.argument("data", required=False)
@click.option("--proxy", help="A smaller model, a folder or a Hub id: say whether it could score in the model's place.")
@click.option("--recipe", "-r", help="With --proxy: the recipe that ranks by the model's scores.  [default: familiarity-top50]")
@click.option("--rows", type=click.IntRange(min=20), help="With --proxy: about how many rows both models score.  [default: 300]")
@loading_options
@model_options
@plugin_option
@json_option
def quote(
    data: str | None,
    proxy: str | None,
    recipe: str | None,
    rows: int | None,
    plugins: tuple[Path, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Say what scoring would cost in time and memory.

    Rows are counted, tokens and speed measured on a sample of them. With --proxy a few hundred rows are scored by both models:
    how far the choice of rows agrees, and what the smaller one would save.

    \b
    Example:
        curate quote train.jsonl --model Qwen/Qwen2.5-0.5B-Instruct
        curate quote train.jsonl --model Qwen/Qwen2.5-7B-Instruct --proxy Qwen/Qwen2.5-0.5B-Instruct
    """
    from curate import console, inspection, pipeline, progress
    from curate.proxy import compare
    from curate.recipes import load_recipe

    if proxy is None and (recipe, rows, plugins) != (None, None, ()):
        raise UsageError("--recipe, --rows and --plugin are for comparing two models: pass --proxy FOLDER_OR_HUB_ID too")
    load_plugins(plugins)
    model = pipeline.target_model(target(options), data, is_needed=True)
    likelihood = pipeline.likelihood_of(model, data)
    if model is None or likelihood is None:
        raise UsageError("a quote times the model that you want to train: pass --model FOLDER_OR_HUB_ID")
    chosen = None if proxy is None else load_recipe(recipe or "familiarity-top50")
    with progress.shown():
        examples = pipeline.load_data(data, **loading(options))
        if proxy is not None and chosen is not None:
            found = compare(examples, model, proxy, chosen, rows=rows or 300)
            print_json(found.to_dict()) if as_json else console.show_comparison(found)
            return
        result = inspection.quote(examples, likelihood)
    print_json(result.to_dict()) if as_json else console.show_quote(result)


@cli.command()
@click.argument("name", required=False)
@plugin_option
@json_option
def filters(name: str | None, plugins: tuple[Path, ...], as_json: bool) -> None:
    """List the filters, or print one filter's data sheet.

    \b
    Example:
        curate filters perplexity
    """
    from curate import catalogue

    load_plugins(plugins)
    sheets = catalogue.filter_sheets(name)
    print_json(sheets) if as_json else click.echo(catalogue.filters_text(sheets, whole=name is not None))


@cli.command()
@click.argument("name", required=False)
@json_option
def recipes(name: str | None, as_json: bool) -> None:
    """List the shipped recipes, or print one as YAML.

    What is printed is a file to start your own from.

    \b
    Example:
        curate recipes familiarity-top50 > mine.yaml
    """
    from curate import catalogue

    if name is not None:
        text, data = catalogue.recipe_text(name)
        print_json(data) if as_json else click.echo(text, nl=False)
        return
    found = catalogue.recipe_list()
    print_json(found) if as_json else click.echo(catalogue.recipes_text(found))


@cli.command()
@click.argument("recipe")
@plugin_option
@json_option
def check(recipe: str, plugins: tuple[Path, ...], as_json: bool) -> None:
    """Check a recipe without running it.

    \b
    Example:
        curate check mine.yaml
    """
    from curate.recipes import load_recipe

    load_plugins(plugins)
    found = load_recipe(recipe)
    if as_json:
        print_json(found.as_data())
        return
    click.echo(f"{recipe}: a valid recipe" + (", needs --model" if found.needs_model else ""))
    for number, step in enumerate(found.steps, 1):
        click.echo(f"  {number}. {step}")
    click.echo(f"  unscored rows: {found.unscored}")


@cli.command()
@click.argument("out", metavar="DIR", type=FOLDER)
@json_option
def verify(out: Path, as_json: bool) -> None:
    """Re-hash a run's folder and check that no row is lost.

    \b
    Example:
        curate verify out/
    """
    from curate import verification

    found = verification.verify(out)
    if as_json:
        print_json(found.to_dict())
    else:
        click.echo(verification.text(found))
    verification.require_sound(found)
