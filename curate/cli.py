"""The command line: each command parses, calls one library function, prints. Heavy modules are imported inside commands."""

import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import click

from curate import __version__
from curate.errors import CurateError, UsageError, near_miss

F = TypeVar("F", bound=Callable[..., Any])
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


class _Pipeline(click.Group):
    """A group whose unnamed command is the pipeline: `curate --recipe NAME data.jsonl` is `curate run ...`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert `run` unless the first token is a command or an option of the group."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h", "--version"):
            first = args[0]
            # A name with a slash is a path or a Hub id, however near to a command.
            if not first.startswith("-") and "/" not in first and not Path(first).exists():
                close = near_miss(first, self.list_commands(ctx), listing="commands")
                if close.startswith("did you mean"):
                    raise click.UsageError(f"no command and no file {first!r}; {close}")
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Pipeline, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="curate")
def cli() -> None:
    """Find the fine-tuning rows that your model learns best from.

    \b
    The whole pipeline (without DATA: the packaged sample with the packaged model):
        curate --recipe familiarity-top50
        curate --recipe familiarity-top50 train.jsonl --model Qwen/Qwen2.5-0.5B-Instruct
    `curate run --help` lists its options. The commands below are its stages and what stands around them.
    """


class _RecipeName(click.types.StringParamType):
    """A recipe by name or file; where it is missing, the shipped names are told."""

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:
        """The end of `Missing option '--recipe'.`"""
        from curate.recipes import shipped_recipes

        return f"Shipped: {', '.join(sorted(shipped_recipes()))}; or a YAML file."


def _recipe_option(text: str) -> Callable[[F], F]:
    return click.option("--recipe", "-r", required=True, type=_RecipeName(), help=text)


_SHARD_ROWS = click.option(
    "--shard-rows",
    type=click.IntRange(1, 1_000_000),
    default=512,
    show_default=True,
    help="Rows per unit of work and of resume, held in memory.",
)


def _loading_options(command: F) -> F:
    """How the data is read."""
    options = [
        click.option("--columns", help="Which column is what: prompt=instruction,completion=output."),
        click.option("--revision", help="Commit, branch or tag of a Hub data set."),
        click.option("--split", help="Split of a folder or Hub data set.  [default: train]"),
        click.option("--limit", type=click.IntRange(min=1), help="Read at most this many rows."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _model_options(command: F) -> F:
    """Which model, and how it runs."""
    options = [
        click.option("--model", "-m", help="The model you want to train: a folder or a Hub id."),
        click.option("--model-revision", help="Commit, branch or tag of a Hub model."),
        click.option(
            "--dtype", type=click.Choice(["auto", "float32", "bfloat16"]), help="Number type of the model.  [default: auto]"
        ),
        click.option("--max-length", type=click.IntRange(min=2), help="Tokens per row, as in SFTConfig.  [default: 1024]"),
        click.option(
            "--chat-template", type=click.Path(path_type=Path), help="A Jinja file in place of the tokenizer's template."
        ),
        click.option("--device", help="cpu, cuda, cuda:1 ...  [default: cuda if there is one]"),
        click.option("--batch-tokens", type=click.IntRange(min=1), help="Padded tokens per batch.  [default: by device]"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _plugin_option(command: F) -> F:
    return click.option(
        "--plugin",
        "plugins",
        multiple=True,
        type=click.Path(path_type=Path),
        help="A Python file that registers filters of your own.",
    )(command)


def _json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def _loading(options: dict[str, Any]) -> dict[str, Any]:
    """The options of `load_examples`, taken out of all options."""
    from curate.examples import parse_columns

    columns = options.pop("columns")
    chosen = {name: options.pop(name) for name in ("revision", "split", "limit")}
    return chosen | {"columns": parse_columns(columns) if columns else None}


def _model(options: dict[str, Any]) -> dict[str, Any] | None:
    """The settings of the target model, taken out of all options; None when nothing was said."""
    names = {"model": "model", "model_revision": "revision"}
    names |= {name: name for name in ("dtype", "max_length", "chat_template", "device", "batch_tokens")}
    found = {field: value for option, field in names.items() if (value := options.pop(option)) is not None}
    return found or None


def _load_plugins(files: tuple[Path, ...]) -> None:
    """Run the user's own filter files; only because the user named them."""
    import importlib.util

    for number, path in enumerate(files):
        if not path.is_file():
            raise UsageError(f"--plugin {path}: no such file")
        spec = importlib.util.spec_from_file_location(f"curate_plugin_{number}_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise UsageError(f"--plugin {path}: not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
        except CurateError as error:
            raise UsageError(f"--plugin {path}: {error}") from error
        except (Exception, SystemExit) as error:  # foreign code may raise anything, and its author needs the line
            line = _line_in(error, str(path))
            where = f" (line {line})" if line else ""
            raise UsageError(f"--plugin {path}: {type(error).__name__}: {_first_line(error)}{where}") from error


def _first_line(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return (text.strip().splitlines() or ["no message"])[0]


def _line_in(error: BaseException, file: str) -> int | None:
    """The line of a file at which an error arose."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return lines[-1] if lines else None


def _print_json(value: Any) -> None:
    # ASCII alone: a data set's control and bidirectional characters are escaped, and a parser reads them back as they were.
    click.echo(json.dumps(value, indent=1))


@cli.command(hidden=True)
@click.argument("data", required=False)
@_recipe_option("A shipped recipe's name or a YAML file.")
@click.option("--out", "-o", type=click.Path(path_type=Path), help="Folder of the run.  [default: curated/NAME]")
@click.option("--reuse", multiple=True, type=_FOLDER, help="Take over scores of equal rows from an earlier run.")
@_SHARD_ROWS
@_loading_options
@_model_options
@_plugin_option
@_json_option
def run(
    data: str | None,
    recipe: str,
    out: Path | None,
    reuse: tuple[Path, ...],
    shard_rows: int,
    plugins: tuple[Path, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Read, score and select: the whole pipeline.

    \b
    Example:
        curate --recipe familiarity-top50 train.jsonl --model Qwen/Qwen2.5-0.5B-Instruct --out out/
    """
    from curate import console, pipeline, progress

    _load_plugins(plugins)
    with progress.shown():
        result = pipeline.run(
            recipe, data, model=_model(options), out=out, reuse=reuse, shard_rows=shard_rows, **_loading(options)
        )
    _print_json({"out": str(result.out), **result.report.to_dict()}) if as_json else console.show_run(result)


@cli.command()
@click.argument("data", required=False)
@_recipe_option("The recipe whose filters score the rows.")
@click.option("--out", "-o", type=click.Path(path_type=Path), help="Folder of the run.  [default: curated/NAME]")
@click.option("--reuse", multiple=True, type=_FOLDER, help="Take over scores of equal rows from an earlier run.")
@_SHARD_ROWS
@_loading_options
@_model_options
@_plugin_option
@_json_option
def annotate(
    data: str | None,
    recipe: str,
    out: Path | None,
    reuse: tuple[Path, ...],
    shard_rows: int,
    plugins: tuple[Path, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Read and score rows, and decide nothing yet.

    \b
    Example:
        curate annotate train.jsonl --recipe familiarity-top50 --model ./my-model --out out/
    """
    from curate import pipeline, progress

    _load_plugins(plugins)
    with progress.shown():
        folder, annotations = pipeline.annotate_only(
            recipe, data, model=_model(options), out=out, reuse=reuse, shard_rows=shard_rows, **_loading(options)
        )
    stores = [store.folder.name for store in annotations.stores]
    if as_json:
        _print_json(
            {"out": str(folder), "rows": annotations.rows.count, "refused": annotations.rows.refused, "annotations": stores}
        )
    else:
        click.echo(f"{annotations.rows.count:,} rows annotated in {folder}: {', '.join(stores)}")
        click.echo(f"next: curate select {folder} --recipe {recipe}")


@cli.command()
@click.argument("out", metavar="DIR", type=_FOLDER)
@_recipe_option("A shipped recipe's name or a YAML file.")
@click.option("--model", "-m", help="Whose scores, where the folder holds those of several models.")
@_plugin_option
@_json_option
def select(out: Path, recipe: str, model: str | None, plugins: tuple[Path, ...], as_json: bool) -> None:
    """Apply a recipe to rows that are scored already.

    It takes seconds and needs no model.

    \b
    Example:
        curate select out/ --recipe mine.yaml
    """
    from curate import console, pipeline, progress

    _load_plugins(plugins)
    with progress.shown():
        result = pipeline.select_again(out, recipe, model=model)
    _print_json({"out": str(result.out), **result.report.to_dict()}) if as_json else console.show_run(result)


@cli.command()
@click.argument("out", metavar="DIR", type=_FOLDER)
@click.argument("row", type=int)
@_json_option
def explain(out: Path, row: int, as_json: bool) -> None:
    """Say why one row was kept or rejected.

    \b
    Example:
        curate explain out/ 17
    """
    from curate import console
    from curate.selection import explain as explain_row

    entry = explain_row(out, row)
    _print_json(entry) if as_json else console.show_explanation(entry)


@cli.command()
@click.argument("data", required=False)
@click.option("--rows", default=3, show_default=True, type=click.IntRange(1, 100), help="How many rows to show.")
@_loading_options
@_model_options
@_json_option
def preview(data: str | None, rows: int, as_json: bool, **options: Any) -> None:
    """Show the layout and a few rows as the model sees them.

    The tokens that bear loss, which are those that are scored, are marked.

    \b
    Example:
        curate preview train.jsonl --model Qwen/Qwen2.5-0.5B-Instruct
    """
    from curate import console, inspection, pipeline

    examples = pipeline.load_data(data, **_loading(options))
    shown = inspection.preview(examples, pipeline.likelihood_of(_model(options), data), rows=rows)
    _print_json(shown.to_dict()) if as_json else console.show_preview(shown)


@cli.command()
@click.argument("data", required=False)
@_loading_options
@_model_options
@_json_option
def quote(data: str | None, as_json: bool, **options: Any) -> None:
    """Say what scoring would cost in time and memory.

    Rows are counted, tokens and speed measured on a sample of them.

    \b
    Example:
        curate quote train.jsonl --model Qwen/Qwen2.5-0.5B-Instruct
    """
    from curate import console, inspection, pipeline, progress

    likelihood = pipeline.likelihood_of(_model(options), data)
    if likelihood is None:
        raise UsageError("a quote times the model that you want to train: pass --model FOLDER_OR_HUB_ID")
    with progress.shown():
        result = inspection.quote(pipeline.load_data(data, **_loading(options)), likelihood)
    _print_json(result.to_dict()) if as_json else console.show_quote(result)


@cli.command()
@click.argument("name", required=False)
@_plugin_option
@_json_option
def filters(name: str | None, plugins: tuple[Path, ...], as_json: bool) -> None:
    """List the filters, or print one filter's data sheet.

    \b
    Example:
        curate filters perplexity
    """
    from curate import catalogue

    _load_plugins(plugins)
    sheets = catalogue.filter_sheets(name)
    _print_json(sheets) if as_json else click.echo(catalogue.filters_text(sheets, whole=name is not None))


@cli.command()
@click.argument("name", required=False)
@_json_option
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
        _print_json(data) if as_json else click.echo(text, nl=False)
        return
    found = catalogue.recipe_list()
    _print_json(found) if as_json else click.echo(catalogue.recipes_text(found))


@cli.command()
@click.argument("recipe")
@_plugin_option
@_json_option
def check(recipe: str, plugins: tuple[Path, ...], as_json: bool) -> None:
    """Check a recipe without running it.

    \b
    Example:
        curate check mine.yaml
    """
    from curate.recipes import load_recipe

    _load_plugins(plugins)
    found = load_recipe(recipe)
    if as_json:
        _print_json(found.as_data())
        return
    click.echo(f"{recipe}: a valid recipe" + (", needs --model" if found.needs_model else ""))
    for number, step in enumerate(found.steps, 1):
        click.echo(f"  {number}. {step}")
    click.echo(f"  unscored rows: {found.unscored}")


@cli.command()
@click.argument("out", metavar="DIR", type=_FOLDER)
@_json_option
def verify(out: Path, as_json: bool) -> None:
    """Re-hash a run's folder and check that no row is lost.

    \b
    Example:
        curate verify out/
    """
    from curate import verification

    found = verification.verify(out)
    if as_json:
        _print_json(found.to_dict())
    else:
        click.echo(verification.text(found))
    verification.require_sound(found)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _say(text: str) -> None:
    from curate.console import plain

    click.echo(plain(text, keep_newlines=True), err=True)


def main() -> None:
    """Entry point: a user's mistake is one line and an exit code; a bug keeps its traceback."""
    # Threads that spin while they wait for each other make a busy machine several times slower; read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # an ASCII terminal shows escapes, as stderr does, and ends no run
    # Work stops between two commits and the next run goes on from there, so there is nothing to finish first.
    signal.signal(signal.SIGTERM, _terminated)
    try:
        cli.main(standalone_mode=False)
    except CurateError as error:
        _say(f"curate: {error}")
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _say("\ncurate: interrupted; what is committed is safe, run the same command again to go on")
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        sys.stderr.close()
        sys.exit(141)


if __name__ == "__main__":
    main()
