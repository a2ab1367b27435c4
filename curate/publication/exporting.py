"""Kept rows in the layouts that trainers read: TRL, Axolotl, LLaMA-Factory, OpenAI chat fine-tuning.

Only what a layout knows is written: no ids, no sources, none of the user's columns. A row that a layout cannot express is refused
with its reason and counted.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate import _fs, progress
from curate.errors import InputError, UsageError, near_miss
from curate.publication.opened import Publication, existing_folder, is_publication, open_publication
from curate.publication.restoring import conversations
from curate.recipes.hub import HubCommit

if TYPE_CHECKING:
    import pyarrow as pa

Row = Mapping[str, Any]
Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Exported:
    """What was written, and what could not be."""

    folder: Path
    layout: str
    files: list[str]
    """Names in the folder; the rows first."""
    rows: int
    refused: dict[str, list[int]]
    """Numbers of the refused rows, by reason."""
    notes: list[str] = field(default_factory=list)
    """What a person who trains on it has to know."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        refused = {reason: {"count": len(rows), "rows": rows} for reason, rows in self.refused.items()}
        return {**vars(self), "folder": str(self.folder), "refused": refused}


@dataclass(frozen=True)
class Layout:
    """How one trainer wants its rows."""

    convert: Callable[[Any, Any], Row | str]
    """Prompt and completion -> a row, or the reason why there is none."""
    beside: Callable[[str, str], dict[str, bytes]]
    """Name of the rows' file and of the data set -> further files."""
    is_chat: bool = True

    @property
    def columns(self) -> set[str]:
        """What its rows have."""
        return {"messages"} if self.is_chat else {"prompt", "completion"}


class _Refused(Exception):  # noqa: N818  (ends one row)
    """Why a row cannot be expressed."""


def export(source: str | Path | Publication, layout: str, into: str | Path, *, revision: str | None = None) -> Exported:
    """Write the kept rows of a publication or of a run's folder in a trainer's layout into the folder `into`.

    Raises UsageError for an unknown layout or a folder that holds something else, InputError where no row can be written.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"unknown layout {layout!r}; {near_miss(layout, LAYOUTS, listing='there are')}")
    split, name, batches = _open(source, revision)
    chosen, out = LAYOUTS[layout], Path(into)
    file = f"{split}.jsonl"
    beside = chosen.beside(file, name)
    _fs.finish_replacement(out)
    _require_free(out, {file, *(path for one in LAYOUTS.values() for path in one.beside(file, name))})
    _require_same_layout(out, layout, file, {file, *beside})
    new = out.with_name(f"{_fs.TEMPORARY}{out.name}")
    shutil.rmtree(new, ignore_errors=True)
    _fs.make_folder(new)
    try:
        rows, refused, notes = _write(new / file, batches, chosen)
        if not rows:
            reasons = ", ".join(f"{len(numbers):,} {reason}" for reason, numbers in refused.items())
            raise InputError(f"{name}: not one row can be written in the layout {layout} ({reasons or 'there are none'})")
        for path, data in beside.items():
            _fs.commit_bytes(new / path, data)
        _fs.replace_folder(new, out)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return Exported(out, layout, [file, *beside], rows, refused, notes)


def _open(source: str | Path | Publication, revision: str | None) -> "tuple[str, str, Iterator[pa.Table]]":
    """Split, name and kept rows."""
    if isinstance(source, Publication) or is_publication(source):
        opened = source if isinstance(source, Publication) else open_publication(source, revision=revision)
        place = opened.place
        name = place.repo.partition("/")[2] if isinstance(place, HubCommit) else Path(str(place)).resolve().name
        return opened.split, _word(name), opened.batches("default")
    out = existing_folder(source)
    if revision is not None:
        raise UsageError(f"{out}: --revision is for the Hub: hf://datasets/USER/NAME")
    if not (out / "selection" / "selection.json").is_file():
        is_run = (out / "rows").is_dir()
        advice = f"run `curate select {out} --recipe NAME` first" if is_run else "name a run's folder or hf://datasets/USER/NAME"
        raise UsageError(f"{out}: holds neither a selection nor a publication; {advice}")
    parts = _fs.read_json(out / "selection" / "selection.json", "kept")["kept"]
    lock = _fs.read_json(out / "lock.json") if (out / "lock.json").is_file() else {}
    split = str(lock.get("input", {}).get("split") or "train")
    return _word(split), _word(out.resolve().name), _of_run(out / "selection" / "kept", parts)


def _of_run(folder: Path, parts: list[dict[str, Any]]) -> "Iterator[pa.Table]":
    from curate.errors import IntegrityError

    for part in parts:
        if not _fs.entry_holds(folder, part):
            raise IntegrityError(f"{folder / part['file']}: missing or not what was committed; run `curate select` again")
        yield _fs.read_table(folder / part["file"])


def _word(text: str) -> str:
    return re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_") or "curated"


def _require_free(out: Path, ours: set[str]) -> None:
    """Refuse a folder that holds anything but an earlier export."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError(f"{out}: is no folder; choose a new one")
    foreign = sorted({path.name for path in out.iterdir()} - ours) if out.is_dir() else []
    if foreign:
        raise UsageError(f"{out}: holds {foreign[0]!r}, which is not of an export; choose a new or empty folder")


def _require_same_layout(out: Path, layout: str, file: str, files: set[str]) -> None:
    """Refuse a folder that holds an export of another layout."""
    there = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if not there or (there == files and _columns_of(out / file) == LAYOUTS[layout].columns):
        return
    raise UsageError(f"{out}: holds an export that is not of the layout {layout}; choose a new or empty folder")


def _columns_of(path: Path) -> set[str] | None:
    """The names in the first row of an export; None where it is none."""
    with path.open("rb") as file:
        try:
            row = json.loads(file.readline())
        except ValueError:
            return None
    return set(row) if isinstance(row, dict) else None


def _write(path: Path, batches: "Iterator[pa.Table]", layout: Layout) -> tuple[int, dict[str, list[int]], list[str]]:
    """Rows written, rows refused by reason, and what is to be known."""
    written = 0
    refused: dict[str, list[int]] = {}
    several = strings = False
    with path.open("w", encoding="utf-8", newline="\n") as file, progress.measuring("exporting"):
        for batch in batches:
            for record in batch.select(["prompt", "completion", "row"]).to_pylist():
                found = layout.convert(record["prompt"], record["completion"])
                progress.tick(rows=1)
                if isinstance(found, str):
                    refused.setdefault(found, []).append(record["row"])
                    continue
                strings |= isinstance(record["prompt"], str)
                several |= _turns(record["prompt"]) > 1
                file.write(json.dumps(found, ensure_ascii=False) + "\n")
                written += 1
    notes = []
    if strings and layout.is_chat:
        notes.append(
            "the rows were scored as plain text, without a chat template; this layout trains them with one, "
            "so the model sees other tokens than those that were scored"
        )
    if several and layout is LAYOUTS["llama-factory"]:
        notes.append("some rows have earlier answers in their prompt: set `mask_history: true`, else those are trained too")
    if layout is LAYOUTS["openai"] and written < 10:
        notes.append("OpenAI takes no file of fewer than 10 rows")
    return written, refused, notes


def _turns(prompt: Any) -> int:
    return sum(message["role"] == "user" for message in prompt) if isinstance(prompt, list) else 1


def _messages(prompt: Any, completion: Any) -> Messages:
    """One conversation; raises _Refused where it is none."""
    messages: Messages = [dict(message) for message in next(conversations(prompt, completion))]
    if unknown := [str(message["role"]) for message in messages if message["role"] not in ("system", "user", "assistant")]:
        raise _Refused(f"a turn of the role {unknown[0]!r}")
    if messages[-1]["role"] != "assistant":
        raise _Refused("does not end with the assistant's turn")
    if not messages[-1]["content"]:
        raise _Refused("empty completion")
    return messages


def _guarded(convert: Callable[[Any, Any], Row]) -> Callable[[Any, Any], Row | str]:
    def guarded(prompt: Any, completion: Any) -> Row | str:
        try:
            return convert(prompt, completion)
        except _Refused as refusal:
            return str(refusal)

    return guarded


def _trl(prompt: Any, completion: Any) -> Row:
    return {"prompt": prompt, "completion": completion}


def _axolotl(prompt: Any, completion: Any) -> Row:
    messages = _messages(prompt, completion)
    last = len(messages) - 1
    return {"messages": [{**message, "train": place == last} for place, message in enumerate(messages)]}


def _llama_factory(prompt: Any, completion: Any) -> Row:
    messages = _messages(prompt, completion)
    turns = messages[1:] if messages[0]["role"] == "system" else messages
    wanted = ["user", "assistant"] * (len(turns) // 2 + 1)
    if not turns or len(turns) % 2 or any(turn["role"] != role for turn, role in zip(turns, wanted, strict=False)):
        raise _Refused("turns do not alternate between user and assistant")  # the trainer skips such rows with a log line
    return {"messages": messages}


def _openai(prompt: Any, completion: Any) -> Row:
    messages = _messages(prompt, completion)
    if any(not message["content"] for message in messages):
        raise _Refused("an empty turn")
    earlier = [{**message, "weight": 0} if message["role"] == "assistant" else message for message in messages[:-1]]
    return {"messages": [*earlier, messages[-1]]}


def _nothing(_file: str, _name: str) -> dict[str, bytes]:
    return {}


def _axolotl_config(file: str, _name: str) -> dict[str, bytes]:
    text = f"""\
# For the configuration of Axolotl. `path` is relative to the folder in which axolotl is started.
# Of every row the last answer alone is trained: the other turns say `train: false`.
datasets:
  - path: {file}
    ds_type: json
    type: chat_template
    field_messages: messages
    message_property_mappings:
      role: role
      content: content
    message_field_training: train
    roles_to_train: []
    train_on_eos: turn
chat_template: tokenizer_default
"""
    return {"axolotl.yaml": text.encode()}


def _dataset_info(file: str, name: str) -> dict[str, bytes]:
    tags = {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    }
    entry = {"file_name": file, "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
    return {"dataset_info.json": (json.dumps({name: entry}, indent=2) + "\n").encode()}


LAYOUTS: Mapping[str, Layout] = {
    "trl": Layout(_guarded(_trl), _nothing, is_chat=False),
    "axolotl": Layout(_guarded(_axolotl), _axolotl_config),
    "llama-factory": Layout(_guarded(_llama_factory), _dataset_info),
    "openai": Layout(_guarded(_openai), _nothing),
}
