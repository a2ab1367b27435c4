"""Parquet files of one split: row groups that a browser can fetch one by one, and a new file where one has become too long."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate import _fs
from curate.errors import IntegrityError

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_ROWS = 5_000
"""Rows per row group: the Hub's viewer reads whole groups."""
GROUP_BYTES = 32 << 20
"""A group of long rows is closed here, which also bounds what is held in memory."""
FILE_BYTES = 500_000_000
"""Bytes per file: what one upload may lose."""
_BATCH_ROWS = 1_000


class PartWriter:
    """Tables in, `{split}-{i:05d}-of-{n:05d}.parquet` out; how many there are is known at the end."""

    def __init__(self, folder: Path, schema: "pa.Schema", *, most_bytes: int = FILE_BYTES) -> None:
        _fs.make_folder(folder)
        self.folder, self.schema, self.most_bytes = folder, schema, most_bytes
        self._held: list[pa.Table] = []
        self._held_rows = self._held_bytes = 0
        self._writer: _fs.TableWriter | None = None
        self._entries: list[dict[str, Any]] = []

    def write(self, table: "pa.Table") -> None:
        """Append rows."""
        for start in range(0, table.num_rows, GROUP_ROWS):
            piece = table.slice(start, GROUP_ROWS)
            if self._held_rows + piece.num_rows > GROUP_ROWS or self._held_bytes + piece.nbytes > GROUP_BYTES:
                self._flush()
            self._held.append(piece)
            self._held_rows += piece.num_rows
            self._held_bytes += piece.nbytes

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._held_rows:
            return
        if self._writer is None:
            self._writer = _fs.TableWriter(_fs.part_path(self.folder, len(self._entries)), self.schema)
        self._writer.write(pa.concat_tables(self._held).combine_chunks())
        held, self._held, self._held_rows, self._held_bytes = self._held_bytes, [], 0, 0
        # The next group is about as long as this one, and shrinks when it is compressed.
        if _written(self._writer.path) + held > self.most_bytes:
            self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._entries.append(self._writer.commit())
            self._writer = None

    def finish(self, name: str) -> dict[str, dict[str, Any]]:
        """Close all files and name them: `{i}` and `{n}` in `name` stand for number and count. Bytes, sha256 and rows by name."""
        self._flush()
        self._close()
        found = {}
        for index, entry in enumerate(self._entries):
            final = name.format(i=index, n=len(self._entries))
            (self.folder / entry["file"]).rename(self.folder / final)
            found[final] = {key: entry[key] for key in ("bytes", "sha256", "rows")}
        return found


def _written(path: Path) -> int:
    """Bytes of a file of `TableWriter` that is not committed yet."""
    return path.with_name(f"{_fs.TEMPORARY}{path.name}").stat().st_size


def batches(path: Path) -> "Iterator[pa.Table]":
    """The rows of a committed file, a few megabytes at a time, whatever its row groups."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True, memory_map=False) as file:
            groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
            longest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1.0)
            rows = int(min(_BATCH_ROWS, max(1.0, GROUP_BYTES / max(1.0, longest))))
            for batch in file.iter_batches(batch_size=rows, use_threads=False):
                yield pa.Table.from_batches([batch])
    except (OSError, pa.ArrowException) as error:
        raise IntegrityError(f"{path}: damaged or missing ({error}); run `curate verify` on the folder") from error


def described(entries: Mapping[str, Mapping[str, Any]], folder: str) -> dict[str, dict[str, Any]]:
    """The entries by their path in the publication."""
    return {f"{folder}/{name}": dict(entry) for name, entry in entries.items()}
