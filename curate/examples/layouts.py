"""Which columns hold what, and the Example that a raw row becomes by that."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final

from curate.examples.example import Example, Message
from curate.examples.record import Refused, excerpt
from curate.examples.turns import Unreadable, read_turns

SYSTEMS: Final = ("system_prompt", "system")
"""Names of columns that usually hold a system prompt."""


@dataclass(frozen=True)
class Layout:
    """Which columns hold what. `example` turns a raw row into an Example, or says why not."""

    name: str
    """`messages`, `prompt/response` ...: the columns of the conversation."""
    messages: str | None = None
    prompt: tuple[str, ...] = ()
    """Columns whose texts, joined by a blank line, are the prompt; the first must be there, the others may lack."""
    completion: str | None = None
    system: str | None = None
    group: str | None = None
    metadata: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For id, source, gold and tests: the columns that may hold them; the first that a row has counts."""
    mapped: frozenset[str] = frozenset()
    """Targets that the user named: a value of the wrong type there refuses the row, elsewhere it stays a column."""
    is_conversational: bool = False
    """Whether the columns hold turns rather than plain text."""
    seen: tuple[str, ...] = ()
    """All columns of the first rows."""

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that become messages."""
        return tuple(name for name in (self.messages, *self.prompt, self.completion, self.system) if name)

    @property
    def notices(self) -> list[str]:
        """What the user may have meant otherwise."""
        names = [name for name in self.seen if name.strip().lower() in SYSTEMS and name not in self.text_columns]
        if self.system or not names:
            return []
        hint = f"--columns system={names[0]} makes it the system prompt"
        return [f"column {excerpt(repr(names[0]))} travels along and is not shown to the model; {hint}"]

    def identity(self) -> dict[str, Any]:
        """What decides how a row is read, as JSON; the columns that happened to be seen do not."""
        facts = {"messages": self.messages, "prompt": list(self.prompt), "completion": self.completion}
        names = {target: list(names) for target, names in self.metadata.items()}
        return {**facts, "system": self.system, "group": self.group, **names}

    def describe(self) -> str:
        """One line per target, for people."""
        pairs = {
            "messages": self.messages,
            "prompt": " + ".join(self.prompt),
            "completion": self.completion,
            "system": self.system,
        }
        pairs |= {target: next((n for n in names if n in self.seen), None) for target, names in self.metadata.items()}
        pairs["group"] = self.group
        rows = [f"{target:<11} {excerpt(column)}" for target, column in pairs.items() if column]
        taken = {*self.text_columns, self.group, *(pairs[target] for target in self.metadata)}
        kept = [excerpt(name, length=40) for name in self.seen if name not in taken]
        if kept:
            shown = ", ".join(kept[:12]) + (f" and {len(kept) - 12} more" if len(kept) > 12 else "")
            rows.append(f"{'carried':<11} {shown}")
        return "\n".join(rows)

    def example(self, value: Mapping[str, Any], row: int, place: str = "") -> Example | Refused:
        """The raw row as Example number `row`, or the reason why it is none."""
        try:
            messages = self._chat(value) if self.messages is not None else self._pair(value)
            _check_shape(messages)
            used = set(self.text_columns)
            facts = {target: self._fact(target, names, value, used) for target, names in self.metadata.items()}
            group = None if self.group is None else self._fact("group", (self.group,), value, used)
        except Unreadable as error:
            return Refused(place, error.reason, error.detail)
        extra = {name: column for name, column in value.items() if name not in used}
        return Example(messages, row=row, group=group, extra=extra, **facts)

    def _chat(self, value: Mapping[str, Any]) -> list[Message]:
        assert self.messages is not None
        messages = read_turns(_required(value, self.messages), self.messages)
        if messages and messages[0]["role"] != "system":
            return self._system(value) + messages
        return messages

    def _pair(self, value: Mapping[str, Any]) -> list[Message]:
        assert self.completion is not None
        first = _required(value, self.prompt[0])
        answer = _required(value, self.completion)
        if answer is None:
            raise Unreadable("no_completion", f"{self.completion} is null")
        answers = read_turns(answer, self.completion) if isinstance(answer, list | tuple) else None
        completion: list[Message] = answers or [{"role": "assistant", "content": as_text(answer, self.completion)}]
        if isinstance(first, list | tuple):  # TRL's conversational prompt/completion rows
            return self._system(value) + read_turns(first, self.prompt[0]) + completion
        parts = [as_text(value[name], name) for name in self.prompt if value.get(name) is not None]
        content = "\n\n".join(part for part in parts if part.strip()) if len(parts) > 1 else "".join(parts)
        return [*self._system(value), {"role": "user", "content": content}, *completion]

    def _system(self, value: Mapping[str, Any]) -> list[Message]:
        if self.system is None or value.get(self.system) is None:
            return []
        text = as_text(value[self.system], self.system)
        return [{"role": "system", "content": text}] if text.strip() else []

    def _fact(self, target: str, names: tuple[str, ...], value: Mapping[str, Any], used: set[str]) -> Any:
        """The value of a metadata target, its column added to `used`; None where there is none."""
        name = next((name for name in names if name in value), None)
        if name is None:
            return None
        found = value[name]
        fact = as_tests(found) if target == "tests" else as_fact(found)
        if fact is None and not _is_nothing(found):
            if target in self.mapped:
                raise Unreadable("type", f"{target} column {name!r} holds {_kind(found)}")
            return None
        used.add(name)
        return fact


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value) or (isinstance(value, float) and value != value)


def as_fact(value: Any) -> str | None:
    """A scalar as the text that JSON has for it (42, 42.0, true); None for all else, for NaN and for ""."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)  # not the subclass's: numpy's float64 is a float and spells itself otherwise
    return float.__repr__(value) if isinstance(value, float) and isfinite(value) else None


def as_tests(value: Any) -> list[str] | None:
    """A list of texts, or one text as a list of one; None for all else."""
    if isinstance(value, str):
        return [value] if value else None
    is_texts = isinstance(value, list | tuple) and all(isinstance(test, str) for test in value)
    return list(value) if is_texts else None


def as_text(value: Any, column: str) -> str:
    """The column's text; raises Unreadable for anything that is none. Bytes count where they are UTF-8."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Unreadable("encoding", f"{column}: bytes that are not UTF-8 at {error.start}") from error
    raise Unreadable("type", f"{column} holds {_kind(value)}: {excerpt(repr(value), length=100)}")


def _kind(value: Any) -> str:
    names = {bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _required(value: Mapping[str, Any], name: str) -> Any:
    try:
        return value[name]
    except KeyError as error:
        raise Unreadable("missing", f"no column {name!r}; the row has {', '.join(map(repr, value)) or 'none'}") from error


def _check_shape(messages: list[Message]) -> None:
    if not messages:
        raise Unreadable("no_completion", "no turns")
    if messages[-1]["role"] != "assistant":
        role = messages[-1]["role"]
        reason = "ends_with_user" if role == "user" else "no_completion"
        raise Unreadable(reason, f"the last turn is by the {role}: {messages[-1]['content']}")
    if not any(message["content"].strip() for message in messages[:-1]):
        raise Unreadable("empty_prompt", "nothing stands before the completion" if len(messages) == 1 else "the prompt is blank")
