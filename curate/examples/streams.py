"""A data file as a stream of bytes, whatever it is compressed with."""

import bz2
import gzip
import io
import lzma
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import zstandard

from curate.errors import InputError
from curate.examples.record import excerpt

_BUFFER = 1 << 18
_ZSTD_INPUT = 1 << 10
"""Bytes put in at a time: a bomb makes up to 32 MB of them, of 64 KB it makes 2 GB (measured)."""
_MAGIC: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz"}
# Longest first: the byte-order mark of UTF-32 begins with that of UTF-16.
_FOREIGN_MARKS: Final = {
    b"\x00\x00\xfe\xff": "UTF-32 (big endian)",
    b"\xff\xfe\x00\x00": "UTF-32 (little endian)",
    b"\xfe\xff": "UTF-16 (big endian)",
    b"\xff\xfe": "UTF-16 (little endian)",
}
_ZEROS: Final[dict[tuple[bool, ...], str]] = {
    (True, True, True, False): "UTF-32 (big endian)",
    (False, True, True, True): "UTF-32 (little endian)",
    (True, False, True, False): "UTF-16 (big endian)",
    (False, True, False, True): "UTF-16 (little endian)",
}
UTF8_MARK: Final = b"\xef\xbb\xbf"
DAMAGE: Final = (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
"""What the decompressors raise for damaged bytes."""


@dataclass(frozen=True)
class DataFile:
    """One file of rows."""

    name: str
    """What places begin with; relative to the folder, glob or Hub repository that was asked for."""
    location: str
    """A local path or an `hf://` address."""
    format: str = "jsonl"
    """`jsonl`, `json`, `csv`, `tsv`, `parquet` or `arrow`, by the suffix before any suffix of compression."""

    def __str__(self) -> str:
        return excerpt(self.name, length=500)

    @property
    def is_remote(self) -> bool:
        """Whether it lies on the Hub."""
        return self.location.startswith("hf://")

    def open_raw(self) -> IO[bytes]:
        """The file's own bytes."""
        if self.is_remote:
            from huggingface_hub import HfFileSystem

            try:
                stream: IO[bytes] = HfFileSystem().open(self.location, "rb")
            except OSError as error:
                raise InputError(f"{self}: cannot be fetched from the Hub: {excerpt(str(error))}") from error
            return stream
        path = Path(self.location)
        require_regular(path)
        try:
            return path.open("rb")
        except OSError as error:
            raise InputError(f"{self}: cannot be opened: {error.strerror}") from error

    @contextmanager
    def open(self) -> Iterator[io.BufferedReader]:
        """The decompressed bytes. The first bytes decide on the compression, not the name: a `.gz` may be plain."""
        with self.open_raw() as raw:
            head = raw.read(6)
            raw.seek(0)
            kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "plain")
            try:
                yield _decompressed(raw, kind)
            except DAMAGE as error:
                where = "" if raw.closed else f" at byte {raw.tell()} of the file"
                what = str(error) or type(error).__name__
                raise InputError(f"{self}: cannot be read on as {kind} data{where}: {what}; fetch or write it again") from error

    def head(self, size: int = 4096) -> bytes:
        """The first decompressed bytes, fewer than `size` only if the file is shorter."""
        with self.open() as stream:
            return stream.read(size)


def require_regular(path: Path) -> None:
    """Raise an InputError unless the path is a file that can be read more than once; never blocks."""
    shown = excerpt(str(path), length=500)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        reason = "is a link to nothing" if path.is_symlink() else "does not exist"
        raise InputError(f"{shown}: {reason}") from error
    except OSError as error:  # a loop of links, no permission, a name too long
        raise InputError(f"{shown}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}
        found = kinds.get(stat.S_IFMT(mode), "no regular file")
        raise InputError(f"{shown}: is {found}; rows are read more than once, so write them to a file first")


def refuse_foreign_encoding(file: DataFile, head: bytes) -> None:
    """Raise an InputError for UTF-16 and UTF-32, which would otherwise refuse every single line."""
    marked = next((name for mark, name in _FOREIGN_MARKS.items() if head.startswith(mark)), None)
    # Text in these encodings that begins without a mark begins with ASCII all the same: a bracket or a header.
    zeros = tuple(byte == 0 for byte in head[:4])
    if found := marked or _ZEROS.get(zeros):
        raise InputError(f"{file}: is {found}, expected UTF-8; convert it: iconv -f {found.split()[0]} -t UTF-8")


def lines(stream: IO[bytes], max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    r"""Line numbers from 1 and lines with their `\n`; None for a line that is too long, which is never held whole.

    Only `\n` ends a line: JSON strings may hold lone `\r` and the Unicode separators that `str.splitlines` cuts at.
    """
    number = 0
    while line := stream.readline(max_bytes + 1):
        number += 1
        if len(line) <= max_bytes or line.endswith(b"\n"):
            yield number, line
            continue
        while (piece := stream.readline(_BUFFER)) and not piece.endswith(b"\n"):
            pass
        yield number, None


def _decompressed(raw: IO[bytes], kind: str) -> io.BufferedReader:
    stream: Any = raw
    if kind == "gzip":
        stream = gzip.GzipFile(fileobj=raw)
    elif kind == "bz2":
        stream = bz2.BZ2File(raw)
    elif kind == "xz":
        stream = lzma.LZMAFile(raw)  # noqa: SIM115  (closed with `raw`)
    elif kind == "zstd":
        stream = _ZstdFile(raw)
    # The decompressors are buffered already; a second buffer makes peek and readline equal for all of them.
    return io.BufferedReader(stream, _BUFFER)


class _ZstdFile(io.RawIOBase):
    """Frames of zstd, one after another. `zstandard.stream_reader` (0.25) ends quietly where a file was cut off."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._ready = memoryview(b"")
        self._begun = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._frame.unused_data or self._raw.read(_ZSTD_INPUT)
            if not data:
                if self._begun and not self._frame.eof:
                    raise EOFError("compressed file ended before the end of its last frame")
                return 0
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._begun = True
            self._ready = memoryview(self._frame.decompress(data))
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size
