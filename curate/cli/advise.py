"""The command `advise`: which source of responses suits the target model."""

from pathlib import Path
from typing import Any

import click

from curate.cli.group import cli
from curate.cli.options import json_option, loading, loading_options, model_options, print_json, target
from curate.errors import UsageError


@cli.command()
@click.argument("data", required=False)
@click.option(
    "--rows-per-source", type=click.IntRange(min=2), default=200, show_default=True, help="Rows to score of each source."
)
@click.option("--own", help="The source that holds the target model's own answers, for self-aligned perplexity.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sample and of the intervals.")
@click.option("--out", "-o", type=click.Path(path_type=Path), help="Folder of the scored sample.  [default: curated/NAME-advice]")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Also draw it, into an SVG, PNG or PDF file.")
@loading_options
@model_options
@json_option
def advise(data: str | None, out: Path | None, plot: Path | None, as_json: bool, **options: Any) -> None:
    """Say which source of responses suits the model.

    A few hundred rows of each source are scored, on the same prompts where sources share them.

    \b
    Example:
        curate advise train.jsonl --model Qwen/Qwen2.5-0.5B-Instruct
    """
    from curate import advice, console, pipeline, progress

    model = pipeline.target_model(target(options), data, is_needed=True)
    if model is None or "model" not in model:
        raise UsageError("advice is about the model that you want to train: pass --model FOLDER_OR_HUB_ID")
    examples = pipeline.load_data(data, **loading(options))
    name = pipeline.default_out("sample" if data is None else examples.name)
    with progress.shown():
        found = advice.advise(examples, model, out or name.with_name(f"{name.name}-advice"), **options)
    if plot:
        advice.draw(found, plot)
    print_json(found.to_dict()) if as_json else console.show_advice(found)
