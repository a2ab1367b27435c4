"""CSV with a header line, by RFC 4180; every value is text."""

import csv
from collections import Counter, deque
from collections.abc import Iterator
from typing import IO

from curate.errors import InputError
from curate.examples.json_rows import half_pair
from curate.examples.record import Record, Refused, excerpt
from curate.examples.streams import DataFile, lines, refuse_foreign_encoding

_DELIMITERS = ",;\t"


class _Feed:
    """Lines for the csv module, remembering those of the record at hand so that they can be read again."""

    def __init__(self, stream: IO[bytes], max_bytes: int) -> None:
        self._lines = lines(stream, max_bytes)
        self._again: deque[tuple[int, str]] = deque()
        self._max_bytes = max_bytes
        self.taken: list[tuple[int, str]] = []
        self.size = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.size > self._max_bytes:
            raise csv.Error("too large")
        number, text = self._again.popleft() if self._again else self._next_line()
        self.taken.append((number, text))
        self.size += len(text)
        return text

    def _next_line(self) -> tuple[int, str]:
        number, line = next(self._lines)
        if line is None:
            self.taken.append((number, ""))
            raise csv.Error("too large")
        # Undecodable bytes become half pairs, by which the record is refused once it is whole.
        return number, line.decode("utf-8", "surrogateescape").removeprefix("\ufeff" if number == 1 else "")

    def begin_record(self) -> None:
        self.taken, self.size = [], 0

    def give_back(self) -> None:
        """Read all but the first line of this record again: an unclosed quote costs its line, not the rest of the file."""
        self._again.extendleft(reversed(self.taken[1:]))


def read_csv(file: DataFile, *, max_row_bytes: int) -> Iterator[Record | Refused]:
    """The records below the header, each placed at its first line."""
    refuse_foreign_encoding(file, file.head())
    # The limit is the process's. It is only ever raised; the default of 131,072 characters is less than many answers.
    csv.field_size_limit(max(csv.field_size_limit(), max_row_bytes))
    with file.open() as stream:
        feed = _Feed(stream, max_row_bytes)
        header: list[str] | None = None
        delimiter = "\t" if file.format == "tsv" else _delimiter(file)
        reader = csv.reader(feed, delimiter=delimiter, strict=True)
        while True:
            feed.begin_record()
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if header is None:
                    raise InputError(f"{file}: the header cannot be read: {error}") from error
                place = f"{file.name}:{feed.taken[0][0]}"
                reason = "too_large" if str(error) == "too large" or "field limit" in str(error) else "syntax"
                yield Refused(place, reason, f"{error}: {feed.taken[0][1]}")
                feed.give_back()
                reader = csv.reader(feed, delimiter=delimiter, strict=True)
                continue
            if not fields:
                continue
            if header is None:
                header = _checked_header(file, fields)
                continue
            yield _record(header, fields, f"{file.name}:{feed.taken[0][0]}")


def _record(header: list[str], fields: list[str], place: str) -> Record | Refused:
    if len(fields) != len(header):
        found = f"{len(fields)} fields where the header has {len(header)}"
        return Refused(place, "ragged", f"{found}: {excerpt(str(fields), length=100)}")
    value = dict(zip(header, fields, strict=True))
    if half_pair(fields):
        bad = next(name for name, text in value.items() if half_pair(text))
        return Refused(place, "encoding", f"column {bad!r} is not UTF-8: {excerpt(value[bad], length=100)}")
    return Record(place, value)


def _delimiter(file: DataFile) -> str:
    """The sign that stands most often in the header, outside of quotes."""
    header = file.head(1 << 16).decode("utf-8", "replace").lstrip("\ufeff\r\n").split("\n", 1)[0]
    plain = "".join(header.split('"')[::2])
    return max(_DELIMITERS, key=plain.count)


def _checked_header(file: DataFile, names: list[str]) -> list[str]:
    if half_pair(names):
        raise InputError(f"{file}: the header is not UTF-8: {excerpt(str(names))}")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{file}: the header names {excerpt(repr(twice[0]))} more than once; rename one of the columns")
    return names
