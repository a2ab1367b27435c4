"""The command line: each command parses, calls one library function, prints. Heavy modules are imported inside commands."""

import io
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from curate.cli import advise, calibrate, correlate, looking, pipeline, publishing, trial  # noqa: F401  (this adds their commands)
from curate.cli.group import cli
from curate.errors import CurateError

__all__ = ["cli", "main"]


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
