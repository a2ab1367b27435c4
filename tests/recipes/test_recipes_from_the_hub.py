"""A recipe of a publication is read from the Hub: data at one commit, by the loader that reads every recipe."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
PROLOGUE = """
import io, json, os
from fake_hub import FakeHub
hub = FakeHub()
os.environ["HF_ENDPOINT"] = hub.url
SOUND = b"name: theirs\\nfilters: {length: {}}\\nsteps:\\n  - drop: {field: length.words, above: 9}\\n"
hub.files = {
    "me/set": {"curate/recipe.yaml": SOUND},
    "me/bare": {"README.md": b"# hi"},
    "me/code": {"curate/recipe.yaml": b"name: x\\nsteps: [!!python/object/apply:os.system [touch ran]]\\n"},
    "me/typo": {"curate/recipe.yaml": SOUND.replace(b"above", b"abov")},
    "me/large": {"curate/recipe.yaml": SOUND + b"#" * (1 << 20)},
    "me/filter": {"curate/recipe.yaml": SOUND.replace(b"length", b"lenght")},
}
hub.denied = {"me/gated": (403, "GatedRepo")}
from curate import progress
from curate.errors import CurateError
from curate.recipes.hub import is_on_hub, recipe_from_hub
def attempt(name):
    said = io.StringIO()
    try:
        with progress.shown(said):
            return recipe_from_hub(name).as_data(), said.getvalue()
    except CurateError as error:
        return f"{type(error).__name__}: {error}", said.getvalue()
"""


def on_hub(code: str, tmp_path: Path, **environment: str) -> Any:
    """What the code prints as JSON, in a process with a loopback Hub and a cache of its own."""
    quiet = {f"HF_HUB_DISABLE_{what}": "1" for what in ("TELEMETRY", "XET", "PROGRESS_BARS")}
    paths = {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}", "HF_HOME": str(tmp_path / "hf"), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE + code],
        env={**os.environ, "HF_HUB_OFFLINE": "0", **quiet, **paths, "NO_PROXY": "127.0.0.1", **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_recipe_is_read_and_its_commit_is_said(tmp_path: Path) -> None:
    code = """
commit = hub.commit_of("me/set")
print(json.dumps([attempt("hf://datasets/me/set"), attempt("hf://datasets/me/set@main"), attempt("hf://datasets/me/set@" + commit), commit]))
"""
    *found, commit = on_hub(code, tmp_path)
    for data, said in found:
        assert data["steps"] == [{"drop": {"field": "length.words", "above": 9.0}}]
        assert said == f"recipe 'theirs' of me/set at commit {commit}\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("me/bare", "curate/recipe.yaml: no such file there"),
        ("me/code", "anchors, aliases and tags are not allowed in a recipe"),
        ("me/typo", "abov"),
        ("me/large", "at most 1,048,576 are read"),
        ("me/filter", "did you mean 'length'?"),
        ("me/gated", "is gated; accept its terms on the Hub and log in"),
        ("me/nope", "no such data set on the Hub"),
        ("me/set@v9", "no such revision"),
        ("me/set@", "not a data set on the Hub; write hf://datasets/USER/NAME"),
        ("me", "not a data set on the Hub"),
        ("../me/set", "not a data set on the Hub"),
        ("me/set/curate/recipe.yaml", "not a data set on the Hub"),
    ],
)
def test_what_is_no_recipe_is_refused_in_one_line(tmp_path: Path, name: str, message: str) -> None:
    said, note = on_hub(f'print(json.dumps(attempt("hf://datasets/{name}")))', tmp_path)
    assert message in said
    assert "\n" not in said
    assert str(tmp_path) not in said  # a place in the cache says nothing to a person
    assert note == ""
    assert not (tmp_path / "ran").exists()


def test_offline_it_says_so(tmp_path: Path) -> None:
    said, _ = on_hub('print(json.dumps(attempt("hf://datasets/me/set")))', tmp_path, HF_HUB_OFFLINE="1")
    assert said.startswith("NetworkError: hf://datasets/me/set: the Hub cannot be reached")


def test_only_what_begins_so_is_on_the_hub() -> None:
    from curate.recipes.hub import is_on_hub

    assert is_on_hub("hf://datasets/me/set")
    assert not is_on_hub("clean")
    assert not is_on_hub(Path("recipes/hf.yaml"))
