"""The group that every command belongs to."""

from pathlib import Path

import click

from curate import __version__
from curate.errors import near_miss


class Pipeline(click.Group):
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


@click.group(cls=Pipeline, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="curate")
def cli() -> None:
    """Find the fine-tuning rows that your model learns best from.

    \b
    The whole pipeline (without DATA: the packaged sample with the packaged model):
        curate --recipe familiarity-top50
        curate --recipe familiarity-top50 train.jsonl --model Qwen/Qwen2.5-0.5B-Instruct
    `curate run --help` lists its options. The commands below are its stages and what stands around them.
    """
