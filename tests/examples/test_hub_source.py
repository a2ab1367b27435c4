"""Hub ids, read through the real clients: from a server on loopback, or not at all."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]

PROLOGUE = """
import io, json, os, sys
from fake_hub import FakeHub
hub = FakeHub()
os.environ["HF_ENDPOINT"] = hub.url
import pyarrow as pa, pyarrow.parquet as pq
def rows(*texts):
    return b"".join(json.dumps({"prompt": "p", "response": text}).encode() + b"\\n" for text in texts)
sink = io.BytesIO()
pq.write_table(pa.table({"prompt": ["p"], "response": ["from parquet"], "n": pa.array([1], pa.int8())}), sink)
card = "---\\nconfigs:\\n- config_name: main\\n  data_files: main/*.jsonl\\n- config_name: other\\n  data_files: other/*.jsonl\\n---\\n"
hub.files = {
    "me/lines": {"train.jsonl": rows("2024-01-01") + b"oops\\n" + rows("b"), "test.jsonl": rows("test"), "README.md": b"# hi"},
    "me/table": {"data/train-00000-of-00001.parquet": sink.getvalue()},
    "me/configs": {"main/train.jsonl": rows("main"), "other/train.jsonl": rows("other"), "README.md": card.encode()},
    "me/text": {"train.txt": b"a line"},
    "me/code": {"code.py": b"raise SystemExit('ran')"},
    "me/empty": {},
    "me/terms": {"train.jsonl": rows("a"), "README.md": b"---\\nlicense: CC-BY-4.0\\n---\\n"},
}
hub.denied = {"me/gated": (403, "GatedRepo"), "me/down": (500, "Oops")}
from curate.errors import CurateError
from curate.examples import load_examples
def attempt(*args, **options):
    try:
        found = load_examples(*args, **options)
        return [getattr(item, "completion", None) or [item.reason, item.place] for item in found.records()], found
    except CurateError as error:
        return f"{type(error).__name__}: {error}", None
"""


def run(code: str, tmp_path: Path, **environment: str) -> Any:
    """What the code prints as JSON, in a process with a loopback Hub and a cache of its own."""
    quiet = {
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    paths = {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}", "HF_HOME": str(tmp_path / "hf"), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE + code],
        env={**os.environ, **quiet, **paths, "NO_PROXY": "127.0.0.1", **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_hub_ids_are_read_line_by_line_and_pinned_to_their_commit(tmp_path: Path) -> None:
    code = """
result, found = attempt("me/lines")
table, typed = attempt("hf://datasets/me/table", revision="main")
print(json.dumps([result, found.fingerprint(), hub.commit_of("me/lines"), attempt("me/lines", split="test")[0], table, str(typed.extra_schema())]))
"""
    result, fingerprint, commit, test, table, schema = run(code, tmp_path)
    assert result == ["2024-01-01", ["syntax", "train.jsonl:2"], "b"]
    expected = {"kind": "hub", "id": "me/lines", "revision": commit, "config": "default", "split": "train"}
    assert {key: fingerprint[key] for key in expected} == expected
    assert (test, table, schema) == (["test"], ["from parquet"], "n: int8")


def test_licence_and_visibility_are_noted_when_the_rows_are_read(tmp_path: Path) -> None:
    code = """
print(json.dumps([dict(attempt(name)[1].origin) for name in ("me/terms", "me/lines")]))
"""
    terms, lines = run(code, tmp_path)
    assert terms == {"license": "cc-by-4.0", "is_private": False, "is_gated": False}
    assert lines["license"] is None


def test_configurations_are_named_after_a_colon_and_other_formats_streamed(tmp_path: Path) -> None:
    code = """
print(json.dumps([attempt("me/configs:other")[0], attempt("me/configs")[0], attempt("me/configs:nope")[0], attempt("me/text")[0]]))
"""
    named, unnamed, unknown, text = run(code, tmp_path)
    assert named == ["other"]
    assert "'main', 'other'" in unnamed
    assert "say which as me/configs:CONFIG" in unnamed
    assert "say which as me/configs:CONFIG" in unknown
    assert "no known layout; columns found: 'text'" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("'me/nope'", "me/nope: no such data set on the Hub, nor a local path of this name; check the spelling"),
        ("'me/gated'", "me/gated: is gated; accept its terms on the Hub and log in: hf auth login"),
        ("'me/lines', revision='v9'", "me/lines: has no revision 'v9'"),
        ("'me/lines', split='dev'", "me/lines: has no split 'dev'; splits found: test, train"),
        ("'me/empty'", "me/empty: cannot be resolved"),
        ("'me/code'", "me/code: cannot be resolved"),
        ("'me/down'", "me/down: the Hub answered"),
    ],
)
def test_what_the_hub_refuses_is_one_error_that_says_what_to_do(tmp_path: Path, arguments: str, message: str) -> None:
    found = run(f"print(json.dumps(attempt({arguments})[0]))", tmp_path)
    assert found.startswith(f"InputError: {message}")
    assert "\n" not in found


def test_offline_a_hub_id_says_so(tmp_path: Path) -> None:
    found = run("print(json.dumps(attempt('me/lines')[0]))", tmp_path, HF_HUB_OFFLINE="1")
    assert found.startswith("InputError: me/lines: no local path has this name, and the Hub cannot be reached; go online")


def test_a_name_below_an_existing_folder_is_never_sent_to_the_hub(tmp_path: Path) -> None:
    (tmp_path / "me").mkdir()
    (tmp_path / "me" / "lines.jsonl").write_text("")
    found = run("print(json.dumps(attempt('me/lines')[0]))", tmp_path)
    assert "no such file or folder; did you mean 'lines.jsonl'? (on the Hub? hf://datasets/me/lines)" in found
