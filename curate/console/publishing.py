"""What became of a push and an export, as text."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from curate.console import plain

if TYPE_CHECKING:
    from curate.hub import Pushed
    from curate.publication import Exported


def show_pushed(pushed: "Pushed", folder: Path, *, tag: str | None = None, revision: str = "main") -> None:
    """Where the rows are now, or what would be sent."""
    if pushed.commit is None:
        click.echo(f"dry run: {len(pushed.files)} files ({_size(sum(pushed.files.values()))}) are in {folder}; nothing was sent")
        for name, size in pushed.files.items():
            click.echo(f"  {_size(size):>9}  {plain(name)}")
        return
    if pushed.is_new:
        click.echo(f"pushed {len(pushed.files)} files ({_size(pushed.bytes_sent)} sent) in one commit, read back")
    else:
        click.echo("the repository holds these very bytes already; no commit was made")
    if pushed.deleted:
        click.echo(
            f"{len(pushed.deleted)} files of the earlier publication were removed: {plain(', '.join(pushed.deleted), most=300)}"
        )
    click.echo(f"{pushed.url} at {pushed.commit}{f', tag {plain(tag)}' if tag else ''}")
    at = tag or (revision if revision != "main" else None)
    pinned = f', revision="{plain(at)}"' if at else ""
    click.echo(f'next: load_dataset("{plain(pushed.repo)}"{pinned})')


def show_exported(found: "Exported") -> None:
    """What was written, and which rows were not."""
    click.echo(f"{found.rows:,} rows for {found.layout} in {found.folder}: {plain(', '.join(found.files))}")
    for reason, rows in found.refused.items():
        first = ", ".join(map(str, rows[:5])) + (" ..." if len(rows) > 5 else "")
        click.echo(f"refused: {len(rows):,} rows, {plain(reason)} (rows {first})")
    for note in found.notes:
        click.echo(f"note: {plain(note)}")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
