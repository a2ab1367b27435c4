"""Inputs that real files hold: each is read, refused with a reason and a place, or fails early with a message."""

import codecs
import contextlib
import gzip
import json
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import InputError, LayoutError
from curate.examples import Example, Refused, load_examples
from curate.examples.record import REASONS

GOOD = {"prompt": "p", "response": "r"}
GOOD_LINE = json.dumps(GOOD).encode() + b"\n"


def refusals(source: Any, **options: Any) -> list[tuple[str, str]]:
    """Reason and place (the part after the file's name) of every refused row."""
    found = (item for item in load_examples(source, **options).records() if isinstance(item, Refused))
    return [(item.reason, item.place.split(":", 1)[-1]) for item in found]


def line(**changes: Any) -> bytes:
    return json.dumps(GOOD | changes).encode()


BAD_LINES: dict[str, tuple[bytes, str]] = {
    "B01 bytes that are no UTF-8": (b'{"prompt": "caf\xe9", "response": "r"}', "encoding"),
    "B04 half a surrogate pair": (b'{"prompt": "\\ud83d", "response": "r"}', "surrogate"),
    "B05 a pair split across two fields": (b'{"prompt": "\\ud83d", "response": "\\ude00"}', "surrogate"),
    "B04 half a pair in a column of the user's": (b'{"prompt": "p", "response": "r", "x": ["\\uDE00"]}', "surrogate"),
    "B14 a comment": (b"// a comment", "syntax"),
    "B15 a list": (b"[1, 2]", "not_object"),
    "B15 a number": (b"7", "not_object"),
    "B15 a string": (b'"text"', "not_object"),
    "B15 null": (b"null", "not_object"),
    "B16 a key twice": (b'{"prompt": "p", "response": "a", "response": "b"}', "duplicate_key"),
    "B16 a key twice, further in": (b'{"prompt": "p", "response": "r", "x": {"a": 1, "a": 2}}', "duplicate_key"),
    "B18 an integer of 5000 digits": (b'{"prompt": "p", "response": "r", "x": ' + b"9" * 5000 + b"}", "number"),
    "B19 nested 100,000 deep": (b'{"prompt": "p", "response": "r", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too_deep"),
    "B19 nested 200 deep": (b'{"prompt": "p", "response": "r", "x": ' + b"[" * 200 + b"]" * 200 + b"}", "too_deep"),
    "B25 a column missing in this row": (b'{"prompt": "p"}', "missing"),
    "B26 a number where text was": (line(response=5), "type"),
    "B26 an object where text was": (line(prompt={"text": "p"}), "type"),
    "B28 completion null": (line(response=None), "no_completion"),
    "B29 prompt null": (line(prompt=None), "empty_prompt"),
    "B29 prompt empty": (line(prompt=""), "empty_prompt"),
    "B29 prompt blank": (line(prompt=" \n"), "empty_prompt"),
    "two rows on one line": (GOOD_LINE.strip() * 2, "syntax"),
}


@pytest.mark.parametrize(("bad", "reason"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_is_one_refused_row_with_its_line_number(tmp_path: Path, bad: bytes, reason: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(GOOD_LINE + bad + b"\n" + GOOD_LINE)
    assert refusals(path) == [(reason, "2")]
    assert [example.row for example in load_examples(path)] == [0, 1]


def turns(*pairs: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in pairs]


BAD_MESSAGES: dict[str, tuple[Any, str]] = {
    "B30 null": (None, "no_completion"),
    "B30 empty": ([], "no_completion"),
    "B30 no list": (7, "type"),
    "B30 a list of plain strings": (["hi", "yo"], "type"),
    "B30 text that is no JSON": ("hi", "type"),
    "B31 an unknown role": (turns(("wizard", "p"), ("assistant", "r")), "role"),
    "B31 an empty role": (turns(("", "p"), ("assistant", "r")), "role"),
    "B31 role null": (turns((None, "p"), ("assistant", "r")), "role"),
    "B31 no role": ([{"content": "p"}, {"role": "assistant", "content": "r"}], "role"),
    "B34 a tool's result": (turns(("user", "p"), ("tool", "42"), ("assistant", "r")), "tool_calls"),
    "B32 ends with the user": (turns(("user", "p"), ("assistant", "r"), ("user", "more")), "ends_with_user"),
    "B32 only a system turn": (turns(("system", "p")), "no_completion"),
    "B32 only an answer": (turns(("assistant", "r")), "empty_prompt"),
    "B33 the answer's content null": (turns(("user", "p"), ("assistant", None)), "no_completion"),
    "B33 the user's content null": (turns(("user", None), ("assistant", "r")), "type"),
    "B33 a number as content": (turns(("user", 1), ("assistant", "r")), "type"),
    "B34 a call of a tool": (
        [{"role": "user", "content": "p"}, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}],
        "tool_calls",
    ),
    "B35 an image": (turns(("user", [{"type": "image_url", "image_url": "http://x"}]), ("assistant", "r")), "multimodal"),
    "B35 audio": (turns(("user", [{"type": "input_audio", "data": ""}]), ("assistant", "r")), "multimodal"),
}


@pytest.mark.parametrize(("messages", "reason"), BAD_MESSAGES.values(), ids=BAD_MESSAGES.keys())
def test_a_conversation_that_cannot_be_trained_on_is_refused(tmp_path: Path, messages: Any, reason: str) -> None:
    path = tmp_path / "x.jsonl"
    good = {"messages": turns(("user", "p"), ("assistant", "r"))}
    path.write_text(json.dumps(good) + "\n" + json.dumps({"messages": messages}) + "\n")
    assert refusals(path) == [(reason, "2")]


KEPT: dict[str, tuple[bytes, str]] = {
    "B06 NUL": (b'{"prompt": "p", "response": "a\\u0000b"}\n', "a\0b"),
    "B07 escapes and bidi": ('{"prompt": "p", "response": "\\u001b[31m\u202e\u200b"}\n'.encode(), "\x1b[31m\u202e\u200b"),
    "B08 decomposed accents": ('{"prompt": "p", "response": "e\u0301"}\n'.encode(), "e\u0301"),
    "B09 carriage returns and separators": (
        '{"prompt": "p", "response": "a\\r\\nb\u2028\u2029\x85"}\r\n'.encode(),
        "a\r\nb\u2028\u2029\x85",
    ),
    "B11 no newline at the end": (b'{"prompt": "p", "response": "r"}', "r"),
    "B28 an empty completion": (b'{"prompt": "p", "response": ""}\n', ""),
    "B02 a byte-order mark": (codecs.BOM_UTF8 + GOOD_LINE, "r"),
    "an emoji as a pair of escapes": (b'{"prompt": "p", "response": "\\ud83d\\ude00"}\n', "\U0001f600"),
    "text that looks like a date": (b'{"prompt": "p", "response": "2024-01-01"}\n', "2024-01-01"),
    "blank lines around": (b"\n \r\n" + GOOD_LINE + b"\n\n", "r"),
}


@pytest.mark.parametrize(("content", "completion"), KEPT.values(), ids=KEPT.keys())
def test_odd_text_is_kept_as_it_is(tmp_path: Path, content: bytes, completion: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    assert [item.completion for item in load_examples(path)] == [completion]


def test_a_last_line_that_is_cut_off_is_refused_as_truncated(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(GOOD_LINE + GOOD_LINE[:15])
    assert refusals(path) == [("truncated", "2")]


def test_encoding_errors_name_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(GOOD_LINE + b'{"prompt": "caf\xe9"}\n')
    refused = [item for item in load_examples(path).records() if isinstance(item, Refused)]
    assert "byte 0xe9 at byte 15" in refused[0].detail


def test_refusals_show_no_control_characters(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(GOOD_LINE + b'{"prompt": \x1b]52;c;aGk=\x07 "x"\xe2\x80\xae' + b"y" * 500 + b"\n")
    (refused,) = [item for item in load_examples(path).records() if isinstance(item, Refused)]
    assert refused.detail.isprintable()
    assert len(refused.detail) <= 200


def test_a_row_over_the_limit_is_refused_and_the_next_one_read(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(GOOD_LINE + line(prompt="x" * 3_000_000) + b"\n" + line(prompt="x" * 500_000) + b"\n")
    assert refusals(path, max_row_bytes=1_000_000) == [("too_large", "2")]
    assert len(list(load_examples(path, max_row_bytes=1_000_000))) == 2


def test_nan_and_infinity_become_null_and_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"prompt": "p", "response": "r", "x": [NaN, -Infinity, 1e999, 1.5]}\n' + GOOD_LINE)
    examples = load_examples(path)
    assert next(iter(examples)).extra == {"x": [None, None, None, 1.5]}
    assert list(examples)
    assert examples.notices == ["NaN or Infinity became null in 1 rows"]


def test_large_integers_stay_exact(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"prompt": "p", "response": "r", "x": 18446744073709551617}\n')
    assert next(iter(load_examples(path))).extra == {"x": 2**64 + 1}


FAILS: dict[str, tuple[str, bytes, str]] = {
    "B10 empty": ("x.jsonl", b"", "x.jsonl: 0 rows"),
    "B10 blank": ("x.jsonl", b"\n  \n\t\n", "x.jsonl: 0 rows"),
    "B10 an empty array": ("x.json", b"[]", "x.json: 0 rows"),
    "B10 a header alone": ("x.csv", b"prompt,response\n", "x.csv: 0 rows"),
    "B03 UTF-16 with a mark": ("x.jsonl", GOOD_LINE.decode().encode("utf-16"), r"is UTF-16 \(little endian\)"),
    "B03 UTF-16 without a mark": ("x.jsonl", GOOD_LINE.decode().encode("utf-16-be"), r"is UTF-16 \(big endian\)"),
    "B03 UTF-32": ("x.csv", "prompt,response\na,b\n".encode("utf-32"), r"is UTF-32 \(little endian\)"),
    "B13 a gz that is cut off": (
        "x.jsonl.gz",
        gzip.compress(GOOD_LINE * 5000)[:-50],
        "x.jsonl.gz: cannot be read on as gzip data at byte",
    ),
    "B14 an object over several lines": ("x.json", json.dumps(GOOD, indent=1).encode(), "jq -c"),
    "nothing but bad rows": (
        "x.jsonl",
        b"1\n2\n{\n",
        r"none of 3 rows can be read \(2 not_object, 1 syntax\); the first: x.jsonl:1: not_object",
    ),
    "B20 a header that names a column twice": ("x.csv", b"a,b,a\n1,2,3\n", "names 'a' more than once"),
    "B21 no Parquet": ("x.parquet", b"PAR1 this is none PAR1", "x.parquet: is no Parquet file"),
    "B21 an empty Parquet file": ("x.parquet", b"", "x.parquet: is no Parquet file"),
    "no Arrow": ("x.arrow", b"no arrow at all", "x.arrow: is no Arrow file"),
    "an unknown format": ("x.docx", b"PK\x03\x04", "is in no known format; readable are .jsonl"),
}


@pytest.mark.parametrize(("name", "content", "message"), FAILS.values(), ids=FAILS.keys())
def test_a_source_of_which_nothing_can_be_read_fails_early(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(load_examples(path))


def test_a_truncated_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"prompt": ["p"], "response": ["r"]}), path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"x\.parquet: is no Parquet file"):
        load_examples(path)


def test_a_flipped_bit_in_a_parquet_page_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table({"prompt": ["p" * 50] * 9, "response": [f"{i} needle" for i in range(9)]})
    pq.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[content.index(b"5 needle")] ^= 1  # neither the smallest nor the largest, which stand in the header, too
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.parquet"):
        load_examples(path)


def test_parquet_without_rows_or_columns_or_with_a_column_twice_fails(tmp_path: Path) -> None:
    for table, message in (
        (pa.table({"prompt": pa.array([], pa.string())}), "0 rows"),
        (pa.table({}), "has no columns"),
        (pa.table([["a"], ["b"]], names=["x", "x"]), "two columns named 'x'"),
    ):
        pq.write_table(table, tmp_path / "x.parquet")
        with pytest.raises(InputError, match=message):
            load_examples(tmp_path / "x.parquet")


def test_a_small_parquet_file_that_decodes_to_too_much_is_refused_by_row(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"prompt": ["p", "x" * 2_000_000, "p"], "response": ["r"] * 3}), path, compression="zstd")
    assert path.stat().st_size < 20_000
    assert refusals(path, max_row_bytes=1_000_000) == [("too_large", "row 1")]


def test_dates_beyond_what_python_knows_refuse_their_row(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    when = pa.array([0, 10**14], pa.timestamp("s"))
    pq.write_table(pa.table({"prompt": ["p", "p"], "response": ["r", "r"], "when": when}), path, version="2.6")
    assert refusals(path) == [("value", "row 1")]


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to("nowhere")


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_socket(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(str(path))


@pytest.mark.timeout(10)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("make", "found"),
    [
        (a_pipe, "a pipe"),
        (a_link_to_nothing, "link to nothing"),
        (a_link_to_itself, "cannot be read"),
        (a_device, "a device"),
        (a_socket, "a socket"),
    ],
)
def test_what_is_no_file_is_an_error_and_never_blocks(tmp_path: Path, make: Callable[[Path], None], found: str) -> None:
    make(tmp_path / "x.jsonl")
    with pytest.raises(InputError, match=found):
        load_examples(tmp_path / "x.jsonl")
    with pytest.raises(InputError, match=found):
        load_examples(tmp_path)


def test_a_column_missing_in_all_rows_lists_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(GOOD_LINE)
    with pytest.raises(LayoutError, match="no column 'respons'; did you mean 'response'"):
        load_examples(path, columns={"prompt": "prompt", "completion": "respons"})


@pytest.mark.parametrize(
    "name", ["a b.jsonl", "new\nline.jsonl", "100%#.jsonl", "..jsonl", "-x.jsonl", "[abc]*?.jsonl", "ü" * 120 + ".jsonl"]
)
def test_odd_file_names_work_and_are_shown_escaped(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(GOOD_LINE + b"7\n")
    (refused,) = [item for item in load_examples(path).records() if isinstance(item, Refused)]
    assert refused.place.isprintable()
    assert refused.place.endswith(".jsonl:2")


@pytest.mark.repository
def test_the_documentation_lists_every_reason() -> None:
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \| ", text.split("## Refused rows")[1], re.MULTILINE)
    assert listed == list(REASONS)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.sampled_from(["prompt", "response"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.lists(json_values, max_size=6))
def test_rows_read_are_examples_and_refused_whatever_the_lines_hold(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any]
) -> None:
    path = tmp_path_factory.mktemp("any") / "x.jsonl"
    path.write_text("\n".join(json.dumps(value) for value in [GOOD, *values]))
    records = list(load_examples(path, columns={"prompt": "prompt", "completion": "response"}).records())
    assert len(records) == len(values) + 1
    assert [item.row for item in records if isinstance(item, Example)] == list(
        range(sum(isinstance(item, Example) for item in records))
    )


@settings(deadline=None)
@given(st.lists(json_values, max_size=6))
def test_an_array_of_any_values_reads_like_lines_of_them(tmp_path_factory: pytest.TempPathFactory, values: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("any")
    values = [GOOD, *values]
    (folder / "x.jsonl").write_text("\n".join(json.dumps(value) for value in values))
    (folder / "x.json").write_text(json.dumps(values, indent=2))
    columns = {"prompt": "prompt", "completion": "response"}

    def outline(name: str) -> list[Any]:
        return [
            item if isinstance(item, Example) else item.reason for item in load_examples(folder / name, columns=columns).records()
        ]

    assert outline("x.json") == outline("x.jsonl")


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["x.jsonl", "x.json", "x.csv", "x.jsonl.gz", "x.parquet"]))
def test_any_bytes_end_in_rows_or_in_an_error_for_people(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        list(load_examples(path).records())
