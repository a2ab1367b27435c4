"""The command `correlate`: how the scores of a run hang together."""

from pathlib import Path

import click

from curate.cli.group import cli
from curate.cli.options import FOLDER, json_option, print_json


@cli.command()
@click.argument("out", metavar="DIR", type=FOLDER)
@click.option("--fields", help="Scores to take, such as perplexity.*,length.words.  [default: all numbers and yes or no]")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Also draw it, into an SVG, PNG or PDF file.")
@json_option
def correlate(out: Path, fields: str | None, plot: Path | None, as_json: bool) -> None:
    """Say how scores, length and source hang together.

    Rank correlations between all scores, and how much of each score's variance is source, prompt and length. It needs no model.

    \b
    Example:
        curate correlate out/ --plot scores.svg
    """
    from curate import console, correlation, progress

    with progress.shown():
        found = correlation.correlate(out, fields=[name.strip() for name in (fields or "").split(",") if name.strip()])
    if plot:
        correlation.draw(found, plot)
    print_json(found.to_dict()) if as_json else console.show_correlations(found)
