"""What commands, filters and public names say of themselves."""

import re

import click
import pytest
from workshop import curate as run_command

import curate
from curate.cli import cli
from curate.filters import known_filters

COMMANDS = dict(cli.commands.items())
SHIPPED = {name: cls for name, cls in known_filters().items() if cls.__module__.startswith("curate.")}


@pytest.fixture(params=sorted(COMMANDS))
def command(request: pytest.FixtureRequest) -> click.Command:
    return COMMANDS[request.param]


def options(command: click.Command) -> list[click.Option]:
    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]


def test_a_command_says_in_one_sentence_what_it_does(command: click.Command) -> None:
    first = (command.help or "").split("\n\n")[0].replace("\n", " ")
    assert re.fullmatch(r"[A-Z][^.]*\.", first)


def test_a_command_has_an_example_that_calls_it(command: click.Command) -> None:
    example = (command.help or "").partition("Example:")[2]
    called = "curate --recipe" if command.name == "run" else f"curate {command.name}"
    assert called in example


def test_a_command_that_reports_prints_json(command: click.Command) -> None:
    assert "--json" in {name for option in options(command) for name in option.opts}


def test_every_option_has_a_help(command: click.Command) -> None:
    assert [option.name for option in options(command) if not option.help] == []


def test_help_is_printed_and_holds_the_example(command: click.Command) -> None:
    done = run_command(str(command.name), "--help")
    assert done.code == 0
    assert "Example:" in done.out
    assert done.err == ""


@pytest.mark.parametrize("name", SHIPPED)
def test_a_filter_has_a_data_sheet_that_names_its_outputs(name: str) -> None:
    sheet = SHIPPED[name].__doc__ or ""
    assert re.match(r".+\.\n", sheet)
    for output in SHIPPED[name].outputs:
        assert re.search(rf"\b{output}\b", sheet), output
    for word in ("Outputs", "Cost:", "Source:"):
        assert word in sheet, word


@pytest.mark.parametrize("name", SHIPPED)
def test_every_parameter_of_a_filter_is_described(name: str) -> None:
    assert [field for field, info in SHIPPED[name].model_fields.items() if not info.description] == []


@pytest.mark.parametrize("name", curate.__all__)
def test_a_public_name_is_there_and_documented(name: str) -> None:
    assert (getattr(curate, name).__doc__ or "").strip()


def test_public_names_are_listed() -> None:
    assert set(curate.__all__) <= set(dir(curate))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        curate.nothing  # noqa: B018
