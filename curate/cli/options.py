"""Options that several commands share, and how they are read."""

import importlib.util
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from curate.errors import CurateError, UsageError

if TYPE_CHECKING:
    from curate.trials import Request

F = TypeVar("F", bound=Callable[..., Any])
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


class _RecipeName(click.types.StringParamType):
    """A recipe by name or file; where it is missing, the shipped names are told."""

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:
        """The end of `Missing option '--recipe'.`"""
        from curate.recipes import shipped_recipes

        return f"Shipped: {', '.join(sorted(shipped_recipes()))}; or a YAML file."


def recipe_option(text: str) -> Callable[[F], F]:
    """`--recipe`, which must be given."""
    return click.option("--recipe", "-r", required=True, type=_RecipeName(), help=text)


def loading_options(command: F) -> F:
    """How the data is read."""
    options = [
        click.option("--columns", help="Which column is what: prompt=instruction,completion=output."),
        click.option("--revision", help="Commit, branch or tag of a Hub data set."),
        click.option("--split", help="Split of a folder or Hub data set.  [default: train]"),
        click.option("--limit", type=click.IntRange(1, 1 << 62), help="Read at most this many rows."),
    ]
    return _all(options, command)


def model_options(command: F) -> F:
    """Which model, and how it runs."""
    options = [
        click.option("--model", "-m", help="The model you want to train: a folder or a Hub id."),
        click.option("--model-revision", help="Commit, branch or tag of a Hub model."),
        click.option(
            "--dtype", type=click.Choice(["auto", "float32", "bfloat16"]), help="Number type of the model.  [default: auto]"
        ),
        click.option(
            "--quantize", type=click.Choice(["4bit", "8bit"]), help="Hold the model's weights in fewer bits; needs bitsandbytes."
        ),
        click.option("--max-length", type=click.IntRange(min=2), help="Tokens per row, as in SFTConfig.  [default: 1024]"),
        click.option(
            "--chat-template", type=click.Path(path_type=Path), help="A Jinja file in place of the tokenizer's template."
        ),
        click.option(
            "--normalise",
            multiple=True,
            type=click.Choice(["answer_line", "calculator_marks", "markdown", "whitespace"]),
            help="Strip this markup from completions before they are scored; kept rows stay as they are.",
        ),
        click.option("--device", help="cpu, cuda, cuda:1 ..., auto (all GPUs).  [default: cuda if there is one]"),
        click.option("--batch-tokens", type=click.IntRange(min=1), help="Tokens per batch.  [default: by device]"),
        click.option(
            "--compile", is_flag=True, default=None, help="Compile the model's layers first; pays for runs of many minutes."
        ),
    ]
    return _all(options, command)


def plugin_option(command: F) -> F:
    """`--plugin`, for filters of the user's own."""
    return click.option(
        "--plugin",
        "plugins",
        multiple=True,
        type=click.Path(path_type=Path),
        help="A Python file that registers filters of your own.",
    )(command)


def run_options(command: F) -> F:
    """What every command that reads and scores takes; `run_arguments` reads them."""
    options = [
        click.option("--out", "-o", type=click.Path(path_type=Path), help="Folder of the run.  [default: curated/NAME]"),
        click.option("--reuse", multiple=True, type=FOLDER, help="Take over scores of equal rows from an earlier run."),
        click.option(
            "--shard-rows",
            type=click.IntRange(1, 1_000_000),
            default=512,
            show_default=True,
            help="Rows per unit of work and of resume, held in memory.",
        ),
        loading_options,
        model_options,
        plugin_option,
    ]
    return _all(options, command)


def _all(options: Sequence[Callable[[F], F]], command: F) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def json_option(command: F) -> F:
    """`--json`, for every command that reports."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def run_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `pipeline.run` and `pipeline.annotate_only` beside recipe and data; runs the plug-in files."""
    load_plugins(options.pop("plugins"))
    kept = {name: options.pop(name) for name in ("out", "reuse", "shard_rows")}
    return kept | {"model": target(options)} | loading(options)


def loading(options: dict[str, Any]) -> dict[str, Any]:
    """The options of `load_examples`, taken out of all options."""
    from curate.examples import parse_columns

    columns = options.pop("columns")
    chosen = {name: options.pop(name) for name in ("revision", "split", "limit")}
    return chosen | {"columns": parse_columns(columns) if columns else None}


def target(options: dict[str, Any]) -> dict[str, Any] | None:
    """The settings of the target model, taken out of all options; None when nothing was said."""
    names = {"model": "model", "model_revision": "revision"}
    same = ("dtype", "quantize", "max_length", "chat_template", "normalise", "device", "batch_tokens", "compile")
    names |= {name: name for name in same}
    found = {field: value for option, field in names.items() if (value := options.pop(option)) not in (None, ())}
    return found or None


def trial_options(command: F) -> F:
    """What the recipe's `trial` section says, said on the command line; `trial_request` reads them."""
    options = [
        click.option("--task", "tasks", multiple=True, help="A task file; may be repeated, the verdict is about the first."),
        click.option("--arms", help="Arms beside the curated one and its control: random,base,longest,source:NAME ..."),
        click.option("--seeds", type=click.IntRange(min=2), help="Training seeds per arm."),
        click.option("--preset", type=click.Choice(["modern", "paper"]), help="Training settings."),
        click.option("--steps", type=click.IntRange(min=1), help="Optimiser steps of every arm."),
        click.option("--epochs", type=click.FloatRange(min=0, min_open=True), help="Passes over the curated rows."),
        click.option("--learning-rate", type=float, multiple=True, help="Several: the best on held-out rows is taken."),
        click.option("--protocol", type=click.Choice(["single", "progressive", "mix"]), help="What the arms are."),
        click.option(
            "--jobs",
            type=click.IntRange(min=1),
            help="Trainings at once.  [default: one per GPU; on a CPU one per core for small models, else one]",
        ),
        click.option("--processes", type=click.IntRange(min=1), default=1, help="Devices that one training is spread over."),
        click.option("--keep-adapters", is_flag=True, help="Keep the trained adapters."),
        click.option("--eval-command", help="Your own evaluation: {adapter}, {model}, {base}, {out} are filled in."),
    ]
    return _all(options, command)


def trial_request(options: dict[str, Any]) -> "Request":
    """The options of `trial_options`, taken out of all options."""
    from curate.trials import Request

    arms = options.pop("arms")
    training = {name: options.pop(name) for name in ("steps", "epochs")} | {"learning_rate": options.pop("learning_rate") or None}
    overrides = {name: options.pop(name) for name in ("seeds", "preset", "protocol")}
    overrides = {name: value for name, value in overrides.items() if value is not None}
    training = {name: value for name, value in training.items() if value is not None}
    return Request(
        arms=None if arms is None else [arm.strip() for arm in arms.split(",") if arm.strip()],
        tasks=options.pop("tasks"),
        overrides=overrides | ({"training": training} if training else {}),
        jobs=options.pop("jobs"),
        processes=options.pop("processes"),
        keep_adapters=options.pop("keep_adapters"),
        eval_command=options.pop("eval_command"),
    )


def push_options(command: F) -> F:
    """How a run is published: the arguments of `pipeline.publish`."""
    options = [
        click.option("--private/--public", "private", default=None, help="Visibility of a new repository.  [default: private]"),
        click.option("--license", help="Licence of the rows, as the Hub spells it.  [default: that of the source]"),
        click.option(
            "--private-source/--public-source",
            "private_source",
            default=None,
            help="Whether the rows come from a private source.  [default: as the Hub says]",
        ),
        click.option("--with-rejected", is_flag=True, help="Publish the rejected rows too, so that any cut can be made."),
        click.option("--with-examples", is_flag=True, help="Show a few rows on the card."),
    ]
    return _all(options, command)


def load_plugins(files: tuple[Path, ...]) -> None:
    """Run the user's own filter files; only because the user named them."""
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


def print_json(value: Any) -> None:
    """A report as a program reads it."""
    # ASCII alone: a data set's control and bidirectional characters are escaped, and a parser reads them back as they were.
    click.echo(json.dumps(value, indent=1))
