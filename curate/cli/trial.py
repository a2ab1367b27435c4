"""The command `trial`: does the filter help, and how sure are we?"""

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from curate.cli.group import cli
from curate.cli.options import (
    FOLDER,
    json_option,
    load_plugins,
    model_options,
    plugin_option,
    print_json,
    target,
    trial_options,
    trial_request,
)
from curate.errors import UsageError


@cli.command()
@click.argument("out", metavar="[DIR]", type=FOLDER, required=False)
@click.option("--recipe", "-r", help="The recipe to try.  [default: that of DIR's selection; without DIR: demo]")
@trial_options
@click.option("--dry-run", is_flag=True, help="Say what it would cost and what it could find; train nothing.")
@click.option("--budget", help="Time it may take, such as 30m or 2h: it is made smaller by a stated rule, or refused.")
@click.option(
    "--require",
    type=click.Choice(["helped", "no-worse"]),
    help="End with exit code 1 where the verdict is less than this.",
)
@click.option("--rescore", is_flag=True, help="Judge the stored answers of a finished trial again; train nothing.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Also draw it, into an SVG, PNG or PDF file.")
@model_options
@plugin_option
@json_option
@click.pass_context
def trial(
    context: click.Context,
    /,
    out: Path | None,
    recipe: str | None,
    dry_run: bool,
    budget: str | None,
    require: str | None,
    rescore: bool,
    plot: Path | None,
    plugins: tuple[Path, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Fine-tune on kept rows and on controls, and judge the filter.

    DIR is the folder of a run. Without it: the packaged sample with the packaged model, in a few minutes. Run the same command
    again after any interruption: finished trainings are not repeated.

    \b
    Example:
        curate trial out/ --task gsm8k-test.yaml --seeds 5 --dry-run
        curate trial out/ --task gsm8k-test.yaml --seeds 5
    """
    from curate import pipeline, progress, trials
    from curate.console.trial import show_cost, show_trial

    if plot:
        trials.check_format(plot)
    if rescore:
        _refuse_others(context)
    budget_s = None if budget is None else trials.parse_duration(budget)
    load_plugins(plugins)
    model, request = target(options), trial_request(options)
    with progress.shown():
        if rescore:
            result = trials.judge_again(_given(out, "--rescore"), recipe)
        else:
            folder, tried = pipeline.folder_to_try(out, recipe, model)
            preparation = trials.prepare(folder, tried, model=model, request=request)
            if dry_run or budget_s is not None:
                cost = trials.quote_trial(preparation)
                if budget_s is not None:
                    preparation, cost = trials.within_budget(preparation, cost, budget_s)
                if dry_run:
                    print_json(cost.to_dict()) if as_json else show_cost(cost)
                    return
            result = trials.run_trial(preparation)
    if plot:
        trials.draw(result.report, plot)
    print_json(result.to_dict()) if as_json else show_trial(result)
    result.pass_gate(require)


_OF_RESCORING = {"out", "recipe", "rescore", "require", "plot", "plugins", "as_json"}


def _refuse_others(context: click.Context) -> None:
    """Raise UsageError for an option that has no say in judging stored answers again."""
    for option in context.command.params:
        name = option.name or ""
        if name not in _OF_RESCORING and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UsageError(f"--rescore judges stored answers, {option.opts[0]} has no say in that; leave one of them out")


def _given(out: Path | None, option: str) -> Path:
    if out is None:
        raise UsageError(f"{option} needs the folder of a run")
    return out
