"""How columns become prompt and completion: detected from the first rows, or said by the user."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final

from curate.errors import LayoutError, UsageError, near_miss
from curate.examples.example import Example, Message
from curate.examples.record import Refused, excerpt
from curate.examples.turns import Unreadable, read_turns

TARGETS: Final = ("messages", "prompt", "completion", "system", "id", "source", "gold", "tests", "group")
"""What a column may be mapped to."""

_CHATS: Final = ("messages", "conversations", "conversation")
_PAIRS: Final[Mapping[str, tuple[str, ...]]] = {
    "prompt": ("completion", "response"),
    "instruction": ("output", "response"),
    "question": ("answer", "response"),
}
_INPUTS: Final = ("input", "context")
_SYSTEMS: Final = ("system_prompt", "system")
_METADATA: Final[Mapping[str, tuple[str, ...]]] = {
    "id": ("id", "uid"),
    "source": ("source", "model", "generator"),
    "gold": ("gold", "gold_answer", "reference_answer"),
    "tests": ("tests",),
}
_PROMPT_LIKE: Final = ("prompt", "instruction", "question", "query", "problem", "input", "user", "context", "source_text")
_COMPLETION_LIKE: Final = ("completion", "response", "output", "answer", "solution", "text", "chosen", "target", "assistant")


def parse_columns(text: str) -> dict[str, str]:
    """`prompt=instruction,completion=output` as a mapping from target to column."""
    columns: dict[str, str] = {}
    for part in text.split(","):
        target, equals, column = (word.strip() for word in part.partition("="))
        if not equals or not column:
            raise UsageError(f"--columns: {part!r} is not target=column, such as prompt=instruction,completion=output")
        if target in columns:
            raise UsageError(f"--columns: {target!r} is given twice; several columns make a prompt as prompt=instruction+input")
        columns[target] = column
    check_targets(columns)
    return columns


def check_targets(columns: Mapping[str, str]) -> None:
    """Raise a UsageError for targets that do not exist or do not go together."""
    for target in columns:
        if target not in TARGETS:
            raise UsageError(f"--columns: unknown target {target!r}; {near_miss(target, TARGETS)}")
    if "messages" in columns and columns.keys() & {"prompt", "completion"}:
        raise UsageError("--columns: messages holds prompt and completion both; map either it or those two")
    if ("prompt" in columns) != ("completion" in columns):
        other = "completion" if "prompt" in columns else "prompt"
        raise UsageError(f"--columns: {other} is missing; map prompt and completion together")


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
        names = [name for name in self.seen if name.strip().lower() in _SYSTEMS and name not in self.text_columns]
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


def detect(
    first_records: Iterable[Mapping[str, Any]], columns: Mapping[str, str] | None = None, *, where: str = "data"
) -> Layout:
    """The layout of rows that begin like these; `columns` maps targets to columns and wins over what is detected.

    Raises a LayoutError that lists what was found and how to say what is meant, where no layout or more than one fits.
    """
    columns = dict(columns or {})
    check_targets(columns)
    seen = _Seen(first_records)
    metadata = {target: seen.named(names) for target, names in _METADATA.items()}
    metadata |= {target: (columns[target],) for target in _METADATA if target in columns}
    if "messages" in columns:
        found: dict[str, Any] = {"name": columns["messages"], "messages": columns["messages"]}
    elif "prompt" in columns:
        joined = columns["prompt"]
        parts = (joined,) if joined in seen.columns else tuple(part.strip() for part in joined.split("+"))
        found = {"name": f"{joined}/{columns['completion']}", "prompt": parts, "completion": columns["completion"]}
    else:
        found = _only_layout(seen, where)
        # Beside a prompt, `system` may as well name the system that answered.
        has_prompt = "prompt" in (name.strip().lower() for name in found.get("prompt", ()))
        names = _SYSTEMS[:1] if has_prompt else _SYSTEMS
        found["system"] = next((column for name in names if (column := seen.filled_name(name))), None)
    found["system"] = columns.get("system", found.get("system"))
    first = found.get("messages") or found["prompt"][0]
    layout = Layout(
        **found,
        group=columns.get("group"),
        metadata=metadata,
        mapped=frozenset(columns),
        is_conversational="messages" in found or seen.chat_name(first) is not None,
        seen=tuple(seen.columns),
    )
    wanted = [*layout.text_columns, *(columns[t] for t in columns if t in _METADATA or t == "group")]
    for name in wanted:
        if name not in seen.columns:
            raise LayoutError(f"{where}: no column {name!r}; {near_miss(name, list(seen.columns), listing='found')}")
    return layout


class _Seen:
    """What the first rows say about each column."""

    def __init__(self, records: Iterable[Mapping[str, Any]]) -> None:
        self.columns: dict[str, bool] = {}
        """Whether any value was not null, in the order of first appearance."""
        self._chats: set[str] = set()
        self.rows = 0
        for record in records:
            self.rows += 1
            for name, value in record.items():
                self.columns[name] = self.columns.get(name, False) or value is not None
                if _is_chat(value):
                    self._chats.add(name)
        self._names: dict[str, str] = {}
        for name in self.columns:
            plain = name.strip().lower()
            if plain not in self._names or name == plain:
                self._names[plain] = name

    def filled_name(self, name: str) -> str | None:
        """The column of this name, whatever its case and outer blanks, if any row has a value there."""
        actual = self._names.get(name)
        return actual if actual is not None and self.columns[actual] else None

    def chat_name(self, name: str) -> str | None:
        """The column of this name if it holds turns."""
        actual = self._names.get(name)
        return actual if actual in self._chats else None

    def named(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The columns that go by these names, in this order, whether or not they were seen yet."""
        return tuple(dict.fromkeys(self._names.get(name, name) for name in names))


def _is_chat(value: Any) -> bool:
    if isinstance(value, str):
        return value.lstrip()[:1] == "[" and value.lstrip()[1:].lstrip()[:1] == "{"
    first = value[0] if isinstance(value, list | tuple) and value else None
    return isinstance(first, Mapping) or (isinstance(first, str) and first.lstrip().startswith("{"))


def _only_layout(seen: _Seen, where: str) -> dict[str, Any]:
    """The one layout that the columns allow."""
    found: list[dict[str, Any]] = [{"name": name, "messages": name} for chat in _CHATS if (name := seen.chat_name(chat))]
    for prompt, completions in _PAIRS.items():
        first = seen.filled_name(prompt)
        for completion in completions:
            second = seen.filled_name(completion)
            if first and second:
                inputs = tuple(name for word in _INPUTS if (name := seen.filled_name(word)))
                found += _readings(prompt, first, second, inputs)
    if len(found) == 1:
        return found[0]
    names = ", ".join(excerpt(repr(name), length=40) for name in list(seen.columns)[:40]) or "none"
    if not found:
        example = _suggestion(seen)
        raise LayoutError(f"{where}: no known layout; columns found: {names}. Say which hold what, such as --columns {example}")
    ways = " or ".join(f"--columns {_as_columns(layout)}" for layout in found)
    raise LayoutError(f"{where}: {len(found)} layouts fit; columns found: {names}. Say which is meant: {ways}")


def _readings(prompt: str, first: str, completion: str, inputs: tuple[str, ...]) -> list[dict[str, Any]]:
    """What a pair of columns may mean, with `input` and `context` columns standing beside it."""
    alone = {"name": f"{first}/{completion}", "prompt": (first,), "completion": completion}
    if prompt == "prompt" or not inputs:
        return [alone]
    if prompt == "instruction" and len(inputs) == 1:  # Alpaca, Dolly
        return [{**alone, "name": f"{first}/{inputs[0]}/{completion}", "prompt": (first, *inputs)}]
    # A question with a context reads either way round, and without the context it is another task.
    return [alone, *({**alone, "prompt": parts} for name in inputs for parts in ((name, first), (first, name)))]


def _as_columns(layout: Mapping[str, Any]) -> str:
    if "messages" in layout:
        return f"messages={layout['messages']}"
    return f"prompt={'+'.join(layout['prompt'])},completion={layout['completion']}"


def _suggestion(seen: _Seen) -> str:
    prompt = next((name for word in _PROMPT_LIKE if (name := seen.filled_name(word))), None)
    rest = [name for word in _COMPLETION_LIKE if (name := seen.filled_name(word)) and name != prompt]
    return f"prompt={prompt or 'COLUMN'},completion={rest[0] if rest else 'COLUMN'}"
