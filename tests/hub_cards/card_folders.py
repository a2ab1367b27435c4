"""What the tests of the card share: small runs, the facts of their publication, a trial's outcome, a card's parts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from markdown_it import MarkdownIt
from markdown_it.token import Token
from workshop import Record, recipe_file, some_rows, write_rows

import curate
from curate import _fs

HUB = {"kind": "hub", "name": "org/set", "revision": "e" * 40, "license": "mit", "is_private": False, "is_gated": False}
COLUMNS = {"given_value": "given.value", "given_flag": "given.flag"}


def run_folder(folder: Path, *steps: str, rows: Sequence[Record] | None = None, unscored: str = "keep") -> Path:
    """Rows with the scores of the filters `given`, `length` and `errors`, selected by these steps."""
    recipe = recipe_file(
        folder / "small.yaml",
        steps or ["deduplicate: exact", "keep: {field: given.value, highest: 50%, within: [prompt, dataset]}"],
        filters="{given: {}, length: {}, errors: {}}",
        unscored=unscored,
    )
    return curate.run(recipe, write_rows(folder / "rows.jsonl", some_rows(40) if rows is None else rows), out=folder / "out").out


def facts_of(out: Path, **changed: Any) -> dict[str, Any]:
    """`publication.json` of a run."""
    decision = _fs.read_json(out / "selection" / "selection.json")
    lock = _fs.read_json(out / "lock.json")
    return {
        "format": 1,
        "curate": "0.1.0",
        "split": "train",
        "rows": decision["rows"],
        "kept": decision["kept_rows"],
        "refused": 0,
        "recipe": decision["recipe"],
        "recipe_hash": lock["recipe_hash"],
        "kept_hash": decision["kept_hash"],
        "files": {"data/train-00000-of-00001.parquet": {}, "scores/train-00000-of-00001.parquet": {}},
        "columns": COLUMNS,
        "left_out": ["errors.answer"],
        "configs": ["default", "scores"],
        "source": HUB,
        "synthetic": None,
        **changed,
    }


def edit_json(path: Path, change: Mapping[str, Any]) -> None:
    """Put other values at the top of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **change}))


def trial_of(out: Path, text: str = "plain") -> dict[str, Any]:
    """The outcome of a trial of this run's steps, with `text` wherever a trial has text of others."""
    steps = _fs.read_json(out / "selection" / "selection.json")["recipe"]["steps"]
    score = {"task": text, "strict": [0.5, 0.6], "lenient": [0.5, 0.6], "unread": [0, 0], "cut_off": [0, 0], "aggregates": {}}
    effect = {"word": text, "difference": 0.05, "low": -0.01, "high": 0.11}
    arms = ("curated", "random", f"source:{text}", text)
    return {
        "format": 1,
        "trial": "0" * 8,
        "plan": {"recipe": {"steps": steps}},
        "model": text,
        "verdict": {"word": text, "sentence": text, "reasons": [text]},
        "primary": {"treated": "curated", "control": "random", "task": text},
        "contrasts": [],
        "arms": [{"arm": arm, "rows": 8, "steps": 4, "tokens": [80, 81]} for arm in arms],
        "scores": [{"arm": arm, **score} for arm in arms],
        "steps": [{"treated": "curated", "control": "random", "steps": [text], **effect}],
        "limits": [text],
        "notices": [text],
        "overlaps": [{"task": text, "items": 9, "found": 1, "share": 0.1, "examples": []}],
        "power": {"source": text, "seeds": 2, "items": 9, "detectable": 0.1, "seeds_needed": {"0.02": None, "0.05": 7}},
    }


def save_trial(out: Path, data: Mapping[str, Any], name: str = "small") -> None:
    """Put a trial's outcome where a finished one lies."""
    folder = out / "trial" / f"{name}-{data['trial']}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trial.json").write_text(json.dumps(data))


def body(card: str) -> str:
    """The Markdown below the header."""
    start, _, rest = card.partition("---\n")
    assert not start
    return rest.partition("\n---\n")[2]


def yaml_header(card: str) -> str:
    """The YAML between the first two lines of dashes."""
    return card.partition("---\n")[2].partition("\n---\n")[0] + "\n"


def load_yaml(text: str) -> Any:
    """YAML as Python's usual reader takes it, by the rules of 1.1."""
    return yaml.safe_load(text)


def tokens(card: str) -> list[Token]:
    """The Markdown as CommonMark with tables sees it."""
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(body(card))


def inline(found: Sequence[Token]) -> list[Token]:
    """The tokens inside of lines."""
    return [child for token in found for child in token.children or []]


def headings(found: Sequence[Token]) -> list[str]:
    """Texts of the headings."""
    return [found[place + 1].content for place, token in enumerate(found) if token.type == "heading_open"]


def fences(found: Sequence[Token], language: str) -> list[str]:
    """Contents of the code blocks of a language."""
    return [token.content for token in found if token.type == "fence" and token.info == language]
