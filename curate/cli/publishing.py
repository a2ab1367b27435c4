"""Commands that show a run to others, and what others do with it: report, push, reproduce, diff, export."""

from pathlib import Path
from typing import Any

import click

from curate.cli.group import cli
from curate.cli.options import FOLDER, json_option, load_plugins, plugin_option, print_json, push_options


@cli.command()
@click.argument("out", metavar="DIR", type=FOLDER)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="The file to write.  [default: DIR/report.html]")
@click.option("--examples", type=click.IntRange(min=1), default=10_000, show_default=True, help="Rows to browse, at most.")
@click.option(
    "--surprise/--no-surprise",
    default=None,
    help="Shade some rows by how surprising each token is.  [default: where the model is a small one on this machine]",
)
@json_option
def report(out: Path, output: Path | None, examples: int, surprise: bool | None, as_json: bool) -> None:
    """Write what was kept and why as one HTML file.

    The file needs no network and nothing beside it. It shows rows of your data: mind whom you send it to.

    \b
    Example:
        curate report out/
    """
    from curate import progress, reports

    with progress.shown():
        path = reports.write_report(out, output, examples=examples, surprise=surprise)
    if as_json:
        print_json({"report": str(path), "bytes": path.stat().st_size})
    else:
        click.echo(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")


@cli.command()
@click.argument("out", metavar="DIR", type=FOLDER)
@click.argument("repo", metavar="USER/NAME")
@push_options
@click.option("--tag", help="Name the commit, such as v1.0.")
@click.option("--revision", default="main", show_default=True, help="The branch to push to.")
@click.option("--dry-run", is_flag=True, help="Write what would be sent to DIR/publication, and send nothing.")
@json_option
def push(out: Path, repo: str, tag: str | None, revision: str, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Publish a run on the Hub: rows, scores, evidence and a card.

    One commit, read back afterwards. The repository is private unless you say --public; that of an existing one never
    changes. Log in first: `hf auth login`.

    \b
    Example:
        curate push out/ USER/NAME --dry-run
        curate push out/ USER/NAME --tag v1.0
    """
    from curate import pipeline, progress
    from curate.console.publishing import show_pushed

    with progress.shown():
        pushed = pipeline.publish(out, repo, tag=tag, revision=revision, dry_run=dry_run, **options)
    print_json(pushed.to_dict()) if as_json else show_pushed(pushed, pipeline.publication_folder(out), tag=tag, revision=revision)


@cli.command()
@click.argument("source", metavar="REPO")
@click.option("--revision", help="Commit, branch or tag.")
@plugin_option
@json_option
def reproduce(source: str, revision: str | None, plugins: tuple[Path, ...], as_json: bool) -> None:
    """Check that the rows of a publication follow from its scores.

    It needs no model. Exit code 7 where a check fails.

    \b
    Example:
        curate reproduce hf://datasets/USER/NAME
    """
    from curate import progress, publication

    load_plugins(plugins)
    with progress.shown():
        found = publication.reproduce(source, revision=revision)
    _print(found, as_json=as_json)
    publication.require_reproduced(found)


@cli.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@json_option
def diff(a: str, b: str, as_json: bool) -> None:
    """Say what two selections differ in, and why.

    A and B are folders of runs or publications, or hf://datasets/USER/NAME[@REVISION].

    \b
    Example:
        curate diff out/ hf://datasets/USER/NAME@v1.0
    """
    from curate import progress, publication

    with progress.shown():
        found = publication.difference(a, b)
    _print(found, as_json=as_json)


@cli.command()
@click.argument("source", metavar="DIR")
@click.option(
    "--layout",
    required=True,
    type=click.Choice(["trl", "axolotl", "llama-factory", "openai"]),
    help="The trainer that is to read the rows.",
)
@click.option("--out", "-o", "into", type=click.Path(path_type=Path), required=True, help="Folder to write to.")
@click.option("--revision", help="Commit, branch or tag of a publication on the Hub.")
@json_option
def export(source: str, layout: str, into: Path, revision: str | None, as_json: bool) -> None:
    """Write the kept rows as another trainer wants them.

    DIR is the folder of a run or a publication, or hf://datasets/USER/NAME. Rows that a layout cannot express are refused
    with the reason.

    \b
    Example:
        curate export out/ --layout axolotl --out for-axolotl/
    """
    from curate import progress, publication
    from curate.console.publishing import show_exported

    with progress.shown():
        found = publication.export(source, layout, into, revision=revision)
    print_json(found.to_dict()) if as_json else show_exported(found)


def _print(found: Any, *, as_json: bool) -> None:
    """A result that knows itself as data and in words."""
    from curate.console import plain

    if as_json:
        print_json(found.to_dict())
        return
    for line in found.lines():
        click.echo(plain(line))
