"""What the tests of publications share: a small run and its bundle."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from workshop import Record, recipe_file, some_rows, write_rows

import curate
from curate.publication import Bundle, build

KEEP = "keep: {field: given.value, lowest: 50%, within: [prompt, dataset]}"
ERRORS = "drop: {field: errors.fatal, is: true}"
FILTERS = "{given: {}, errors: {}, length: {}}"


def small_run(
    folder: Path,
    *,
    rows: Iterable[Record] | int = 40,
    steps: Sequence[str] = (ERRORS, KEEP),
    filters: str = FILTERS,
    unscored: str = "keep",
    name: str = "small",
    shard_rows: int = 8,
    **loading: Any,
) -> Path:
    """A finished run below `folder`, of `some_rows` unless said otherwise; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = recipe_file(folder / f"{name}.yaml", steps, filters=filters, unscored=unscored)
    data = write_rows(folder / "rows.jsonl", some_rows(rows) if isinstance(rows, int) else rows)
    return curate.run(recipe, data, out=folder / "out", shard_rows=shard_rows, **loading).out


def small_bundle(folder: Path, *, bundle: dict[str, Any] | None = None, **run: Any) -> Bundle:
    """The bundle of such a run, in `folder / "bundle"`; `bundle` holds options of `build`."""
    stand_in_for_the_card()
    return build(small_run(folder, **run), folder / "bundle", **(bundle or {}))


def stand_in_for_the_card() -> None:
    """Until `curate.hub_cards` is there: a card of nothing but its header."""
    try:
        import curate.hub_cards.context  # noqa: F401
    except ImportError:
        module = ModuleType("curate.hub_cards")
        module.render_card = _render_card  # type: ignore[attr-defined]
        sys.modules["curate.hub_cards"] = module


def _render_card(
    out: Path, facts: Any, *, repo: str | None = None, license: str | None = None, with_examples: bool = False
) -> str:
    folders = {"default": "data", "scores": "scores", "rejected": "rejected"}
    lines = ["---", "configs:"]
    for name in facts["configs"]:
        lines += [f"- config_name: {name}", "  data_files:", f"  - split: {facts['split']}"]
        lines += [f"    path: {folders[name]}/{facts['split']}-*.parquet"] + (["  default: true"] if name == "default" else [])
    return "\n".join([*lines, "---", "", "# A curated set", ""])
