"""Turns of a conversation, in any of the usual spellings, as messages."""

import json
from collections.abc import Mapping
from typing import Any, Final

from curate.examples.example import Message, Role
from curate.examples.record import excerpt

ROLES: Final[Mapping[str, Role]] = {
    "system": "system",
    "developer": "system",  # OpenAI's newer word for the same turn
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
"""Who may speak, by any name and in any case. Everyone else refuses the row."""
_TOOL_ROLES: Final = ("tool", "function", "observation", "function_call", "ipython")


class Unreadable(Exception):  # noqa: N818  (it carries a refusal, it is no error of the program)
    """Why a raw row is no Example."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def read_turns(value: Any, column: str) -> list[Message]:
    """The column's turns as messages: a list of turns, or its JSON text. Raises Unreadable."""
    if value is None:
        raise Unreadable("no_completion", f"{column} is null")
    if isinstance(value, str):
        value = _parsed(value, column)
    if not isinstance(value, list | tuple):
        raise Unreadable("type", f"{column} is no list of turns: {excerpt(repr(value), length=100)}")
    return [_turn(turn, f"{column}[{i}]") for i, turn in enumerate(value)]


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable("type", f"{where} is text that holds no JSON: {excerpt(text, length=100)}") from error


def _turn(turn: Any, where: str) -> Message:
    if isinstance(turn, str):
        turn = _parsed(turn, where)
    if not isinstance(turn, Mapping):
        raise Unreadable("type", f"{where} is no turn: {excerpt(repr(turn), length=100)}")
    if turn.get("tool_calls") or turn.get("function_call"):
        raise Unreadable("tool_calls", f"{where} calls a tool")
    role = _role(turn["role"] if "role" in turn else turn.get("from"), where)
    content = turn["content"] if "content" in turn else turn.get("value")
    if content is None:
        raise Unreadable("no_completion" if role == "assistant" else "type", f"{where} has no content")
    return {"role": role, "content": content if isinstance(content, str) else _joined(content, where)}


def _role(name: Any, where: str) -> Role:
    role = ROLES.get(name) or ROLES.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        is_tool = isinstance(name, str) and name.strip().lower() in _TOOL_ROLES
        raise Unreadable("tool_calls" if is_tool else "role", f"{where} is by {name!r}")
    return role


def _joined(content: Any, where: str) -> str:
    """Text parts put together as chat templates do it: without anything between them."""
    if not isinstance(content, list | tuple):
        raise Unreadable("type", f"{where} holds {type(content).__name__}: {excerpt(repr(content), length=100)}")
    return "".join(_part(part, where) for part in content)


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise Unreadable("type", f"{where} has a part that is no text: {excerpt(repr(part), length=100)}")
    kind = part.get("type", "text")
    text = part.get("text")
    if kind == "text" and isinstance(text, str):
        return text
    raise Unreadable("type" if kind == "text" else "multimodal", f"{where} has a part of type {kind!r}")
