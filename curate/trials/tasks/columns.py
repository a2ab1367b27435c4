"""A row of a test set, and the prompt and the accepted answers in it. What is wrong with a row is said with its place."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from curate.errors import InputError, near_miss
from curate.examples import Message
from curate.examples.layouts import as_fact
from curate.examples.record import excerpt
from curate.examples.turns import Unreadable, read_turns

_PARTS = re.compile(r"(\{\{|\}\}|\{[^{}]*\}|[{}])")


@dataclass(frozen=True)
class Row:
    """A raw row that knows where it stands."""

    value: Mapping[str, Any]
    place: str
    task: str

    def error(self, message: str) -> InputError:
        """An error of this row."""
        return InputError(f"task {self.task}: {excerpt(self.place)}: {message}")

    def __getitem__(self, name: str) -> Any:
        if name not in self.value:
            names = [excerpt(column, length=40) for column in self.value]
            hint = near_miss(name, names, listing="columns")
            there = "" if hint.startswith("columns") else f" Columns: {', '.join(names)}."
            raise self.error(f"no column {name!r}; {hint}{there}")
        return self.value[name]

    def text(self, name: str) -> str:
        """A column's text, or its number as text; raises where it is null, blank, or anything else."""
        found = self[name]
        text = as_fact(found)
        if text is None or not text.strip():
            raise self.error(f"column {name!r} holds {shown(found)} where a text or a number is needed")
        return text


def is_template(prompt: str) -> bool:
    """Whether a prompt is a template rather than a column."""
    return "{" in prompt or "}" in prompt


def template_columns(template: str) -> list[str]:
    """The columns that a template names. Raises ValueError for one that cannot be meant."""
    parts = _PARTS.findall(template)
    if any(part in ("{", "}", "{}") for part in parts):
        raise ValueError("prompt: a single brace; a template names columns as {column} and writes a brace as {{ or }}")
    names = [part[1:-1] for part in parts if part not in ("{{", "}}")]
    if not names:
        raise ValueError("prompt: a template without a {column} would ask every item the same")
    return names


def messages_of(row: Row, prompt: str, system: str | None) -> tuple[Message, ...]:
    """The prompt of a row: a template filled in, a column's text as the user's turn, or a column of messages as it is."""
    first: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    if is_template(prompt):
        return (*first, {"role": "user", "content": _filled(row, prompt)})
    if not isinstance(row[prompt], list | tuple):
        return (*first, {"role": "user", "content": row.text(prompt)})
    try:
        turns = read_turns(row[prompt], prompt)
    except Unreadable as error:
        raise row.error(f"the prompt cannot be read: {error.detail}") from error
    if not turns or turns[-1]["role"] != "user" or not turns[-1]["content"].strip():
        raise row.error(f"the messages of column {prompt!r} must end with a question of the user")
    if system is not None and turns[0]["role"] == "system":
        raise row.error(f"column {prompt!r} has a system message of its own; leave `system` out of the task")
    return (*first, *turns)


def _filled(row: Row, template: str) -> str:
    pieces = []
    for part in _PARTS.split(template):
        is_column = len(part) > 2 and part[0] == "{" and part[-1] == "}"
        if is_column:
            name = part[1:-1]
            pieces.append("" if row[name] == "" else row.text(name))
        else:
            pieces.append({"{{": "{", "}}": "}"}.get(part, part))
    return "".join(pieces)


def accepted(row: Row, name: str) -> tuple[str, ...]:
    """The accepted answers in a column: a text, a number, a list of them, or SQuAD's `{text: [...]}`; each once."""
    found = row[name]
    if isinstance(found, Mapping) and "text" in found:
        found = found["text"]
    answers = [as_fact(value) for value in (found if isinstance(found, list | tuple) else [found])]
    texts = [answer for answer in answers if answer is not None and answer.strip()]
    if not texts or len(texts) < len(answers):
        raise row.error(f"no gold: column {name!r} holds {shown(found)}; give a text, a number or a list of accepted answers")
    return tuple(dict.fromkeys(texts))


def shown(value: Any) -> str:
    """A value as messages show it."""
    return "null" if value is None else excerpt(repr(value), length=60)
