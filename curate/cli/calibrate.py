"""The command `calibrate`: how well detectors do on rows of known origin."""

from pathlib import Path
from typing import Any

import click

from curate.cli.group import cli
from curate.cli.options import FOLDER, json_option, loading, loading_options, model_options, print_json, target


@cli.command()
@click.argument("data")
@click.option(
    "--human", multiple=True, default=("human",), show_default=True, help="A source that people wrote; may be repeated."
)
@click.option("--recipe", "-r", help="Calibrate the detectors of this recipe, with its settings.")
@click.option("--classifier", help="A published detector to calibrate too: a folder or a Hub id.")
@click.option("--group", help="A column by which false positives are told apart.  [default: the source]")
@click.option("--out", "-o", type=click.Path(path_type=Path), help="Folder of the scored rows.  [default: curated/NAME]")
@click.option("--into", type=FOLDER, help="Folder of the run that is to know the figures.  [default: the same]")
@click.option("--save", type=click.Path(file_okay=False, path_type=Path), help="Write the learned detector there.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Also draw it, into an SVG, PNG or PDF file.")
@loading_options
@model_options
@json_option
def calibrate(data: str, recipe: str | None, classifier: str | None, out: Path | None, plot: Path | None, **options: Any) -> None:
    """Say what AI-text detectors find, and whom they accuse.

    On labelled rows: AUROC, what is found at 1 % and 5 % false positives, and false positives per group. With --model the
    target model's own detectors are measured, and a detector learnt from the rows always is.

    \b
    Example:
        curate calibrate labelled.jsonl --human human --model Qwen/Qwen2.5-0.5B-Instruct --into out/
    """
    from curate import calibration, console, pipeline, progress

    as_json, model = options.pop("as_json"), target(options)
    examples = pipeline.load_data(data, **loading(options))
    filters = pipeline.detectors_of(recipe, model, classifier, options["human"])
    with progress.shown():
        found = calibration.calibrate(examples, filters, out or pipeline.default_out(examples.name), **options)
    if plot:
        calibration.draw(found, plot)
    print_json(found.to_dict()) if as_json else console.show_calibration(found)
