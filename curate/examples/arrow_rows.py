"""Parquet and Arrow data: rows as Python values, and the Arrow types that a writer keeps for the user's own columns."""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from curate.errors import InputError
from curate.examples.record import Record, Refused, excerpt
from curate.examples.streams import DataFile, require_regular

_FIRST_BATCH = 16
_MAX_BATCH = 256
_BATCH_BYTES = 4_000_000


def plain_type(kind: Any) -> Any:
    """The type that holds the same Python values and that every Parquet reader knows.

    Dictionaries and run-length encodings become their values, large and view types the usual ones, extensions their storage.
    """
    import pyarrow as pa

    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    if types.is_fixed_size_list(kind):
        return pa.list_(_plain_field(kind.value_field), kind.list_size)
    if types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    if types.is_struct(kind):
        return pa.struct([_plain_field(kind.field(i)) for i in range(kind.num_fields)])
    if any(check(kind) for check in (types.is_list, types.is_large_list, types.is_list_view, types.is_large_list_view)):
        return pa.list_(_plain_field(kind.value_field))
    return kind


def _plain_field(field: Any) -> Any:
    import pyarrow as pa

    return pa.field(field.name, plain_type(field.type), nullable=field.nullable)


def plain_schema(schema: Any, where: str) -> Any:
    """The schema in plain types, every column nullable; raises an InputError for column names that stand twice."""
    import pyarrow as pa

    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise InputError(f"{where}: has two columns named {excerpt(repr(twice[0]))}; rename one")
    if not schema.names:
        raise InputError(f"{where}: has no columns")
    return pa.schema([pa.field(field.name, plain_type(field.type)) for field in schema])


def is_fact(kind: Any, target: str) -> bool:
    """Whether a column of this plain type can hold a metadata target: scalars, and lists of text for tests."""
    import pyarrow as pa

    types = pa.types
    if types.is_null(kind) or types.is_string(kind):
        return True
    if target == "tests":
        is_list = types.is_list(kind) or types.is_fixed_size_list(kind)
        return bool(is_list and (types.is_string(kind.value_type) or types.is_null(kind.value_type)))
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


@contextmanager
def _explained(file: DataFile, kind: str) -> Iterator[Any]:
    """The open file; what pyarrow says of its bytes becomes an InputError that names it."""
    import pyarrow as pa

    if not file.is_remote:
        require_regular(Path(file.location))
    try:
        with file.open_raw() if file.is_remote else pa.OSFile(file.location) as raw:
            yield raw
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file}: is no {kind} file that can be read: {excerpt(str(error))}") from error


@contextmanager
def opened_parquet(file: DataFile) -> Iterator[Any]:
    """The file as a `pyarrow.parquet.ParquetFile`."""
    import pyarrow.parquet as pq

    with _explained(file, "Parquet") as raw:
        # Without verification, 7 of 10 single flipped bits were read as other data.
        yield pq.ParquetFile(raw, page_checksum_verification=True)


def read_parquet(file: DataFile, *, max_row_bytes: int, parsed: Container[str]) -> Iterator[Record | Refused]:
    """The rows of a Parquet file; columns of type JSON named in `parsed` are parsed, others stay JSON text."""
    with opened_parquet(file) as parquet:
        plain_schema(parquet.schema_arrow, str(file))
        read = 0
        for item in rows_of(_sized(parquet), file.name, max_row_bytes=max_row_bytes, parsed=parsed):
            read += 1
            yield item
        if read != parquet.metadata.num_rows:
            raise InputError(f"{file}: holds {read} rows where its footer says {parquet.metadata.num_rows}; write it again")


def _sized(parquet: Any) -> Iterator[Any]:
    """Batches of about 4 MB: what a row takes is only known once the first are decoded, the footer may say anything."""
    probe = next(parquet.iter_batches(batch_size=_FIRST_BATCH), None)
    if probe is not None and probe.num_rows:
        size = _BATCH_BYTES * probe.num_rows // max(1, probe.nbytes)
        yield from parquet.iter_batches(batch_size=min(max(size, _FIRST_BATCH), _MAX_BATCH))


@contextmanager
def opened_arrow(file: DataFile) -> Iterator[tuple[Any, Iterator[Any]]]:
    """Schema and batches of an Arrow file, as a file or as the stream that `datasets` writes."""
    import pyarrow as pa

    with _explained(file, "Arrow") as raw:
        is_file = raw.read(6) == b"ARROW1"
        raw.seek(0)
        if is_file:
            reader = pa.ipc.open_file(raw)
            yield reader.schema, (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            stream = pa.ipc.open_stream(raw)
            yield stream.schema, iter(stream)


def read_arrow(file: DataFile, *, max_row_bytes: int, parsed: Container[str]) -> Iterator[Record | Refused]:
    """The rows of an Arrow file."""
    with opened_arrow(file) as (schema, batches):
        plain_schema(schema, str(file))
        yield from rows_of(batches, file.name, max_row_bytes=max_row_bytes, parsed=parsed)


def schema_of(file: DataFile) -> Any:
    """The file's columns in plain types."""
    if file.format == "arrow":
        with opened_arrow(file) as (schema, _):
            return plain_schema(schema, str(file))
    with opened_parquet(file) as parquet:
        return plain_schema(parquet.schema_arrow, str(file))


def rows_of(batches: Iterable[Any], where: str, *, max_row_bytes: int, parsed: Container[str]) -> Iterator[Record | Refused]:
    """The rows of record batches or tables, numbered from 0 through all of them."""
    import pyarrow as pa

    index = 0
    try:
        for batch in batches:
            for start in range(0, batch.num_rows, _MAX_BATCH):
                part = batch.slice(start, _MAX_BATCH)
                yield from _rows(part, where, index, max_row_bytes, parsed)
                index += part.num_rows
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{where}: cannot be read on after row {index}: {excerpt(str(error))}") from error


def _rows(batch: Any, where: str, index: int, max_row_bytes: int, parsed: Container[str]) -> Iterator[Record | Refused]:
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    if batch.nbytes <= max_row_bytes:
        try:
            lists = {name: _values(column, name in parsed) for name, column in columns.items()}
        except (ValueError, OverflowError, ArithmeticError):  # a date beyond year 9999, text that is not UTF-8 ...
            pass
        else:
            for offset, values in enumerate(zip(*lists.values(), strict=True)):
                yield Record(f"{where}:row {index + offset}", dict(zip(lists, values, strict=True)))
            return
    for offset in range(batch.num_rows):
        place = f"{where}:row {index + offset}"
        single = {name: column.slice(offset, 1) for name, column in columns.items()}
        size = sum(_decoded_bytes(column) for column in single.values())
        if size > max_row_bytes:
            yield Refused(place, "too_large", f"{size} bytes, more than {max_row_bytes}")
            continue
        try:
            yield Record(place, {name: _values(column, name in parsed)[0] for name, column in single.items()})
        except UnicodeDecodeError as error:
            yield Refused(place, "encoding", str(error))
        except (ValueError, OverflowError, ArithmeticError) as error:
            yield Refused(place, "value", f"{type(error).__name__}: {error}")


def _decoded_bytes(column: Any) -> int:
    """Bytes of one row's value; an entry of a dictionary counts by itself, not with the whole dictionary."""
    kind = column.type
    plain = plain_type(kind)
    size: int = column.cast(plain).nbytes if _is_dictionary(kind) else column.nbytes
    return size


def _is_dictionary(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_dictionary(kind))


def _values(column: Any, is_parsed: bool) -> list[Any]:
    """Python values of a column, extension types as their storage."""
    parse = _converter(column.type, is_parsed)
    values: list[Any] = _storage(column).to_pylist()
    return [parse(value) for value in values] if parse else values


def _storage(column: Any) -> Any:
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # more than fits into one array
            column = pa.concat_arrays(column.chunks)
    while isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    return column


def _converter(kind: Any, is_parsed: bool) -> Callable[[Any], Any] | None:
    """What turns Arrow's value into the one wanted; None for nearly all types, where it is the one wanted."""
    import json

    import pyarrow as pa

    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name == "arrow.json" and is_parsed:
            return lambda text: None if text is None else json.loads(text)
        return _converter(kind.storage_type, is_parsed)
    if types.is_struct(kind):
        inner = {kind.field(i).name: _converter(kind.field(i).type, is_parsed) for i in range(kind.num_fields)}
        if any(inner.values()):
            return lambda value: value and {k: (convert(value[k]) if (convert := inner[k]) else value[k]) for k in value}
    elif hasattr(kind, "value_type") and not types.is_dictionary(kind):
        convert = _converter(kind.value_type, is_parsed)
        if convert is not None:
            return lambda values: values and [convert(value) for value in values]
    return None


def union_schema(schemas: Iterable[tuple[str, Any]]) -> Any:
    """One schema for files that may lack columns of one another; an InputError names a column whose types disagree."""
    import pyarrow as pa

    together: Any = None
    for where, schema in schemas:
        try:
            together = schema if together is None else pa.unify_schemas([together, schema], promote_options="permissive")
        except pa.ArrowException as error:
            clash = next((f.name for f in schema if f.name in together.names and together.field(f.name).type != f.type), "?")
            message = f"column {excerpt(repr(clash))} has another type than in the files before; cast it"
            raise InputError(f"{where}: {message} ({excerpt(str(error), length=100)})") from error
    return together
