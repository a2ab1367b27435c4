"""The layout of a source: detected from its first rows, or said by the user."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from curate.errors import LayoutError, UsageError, near_miss
from curate.examples.layouts import SYSTEMS, Layout
from curate.examples.record import excerpt

SAMPLE_ROWS: Final = 200
"""Rows from which the layout is detected; unreadable ones do not count."""
TARGETS: Final = ("messages", "prompt", "completion", "system", "id", "source", "gold", "tests", "group")
"""What a column may be mapped to."""

_CHATS: Final = ("messages", "conversations", "conversation")
_PAIRS: Final[Mapping[str, tuple[str, ...]]] = {
    "prompt": ("completion", "response"),
    "instruction": ("output", "response"),
    "question": ("answer", "response"),
}
_INPUTS: Final = ("input", "context")
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


def detect(records: Iterable[Mapping[str, Any]], columns: Mapping[str, str] | None = None, *, where: str = "data") -> Layout:
    """The layout of rows that begin like the first of these; `columns` maps targets to columns and wins over what is detected.

    Reads on behind the first rows only to look for a column that was mapped and has not appeared yet.

    Raises a LayoutError that lists what was found and how to say what is meant, where no layout or more than one fits.
    """
    columns = dict(columns or {})
    check_targets(columns)
    seen = _Seen(records, sought=columns.values())
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
        names = SYSTEMS[:1] if has_prompt else SYSTEMS
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

    def __init__(self, records: Iterable[Mapping[str, Any]], sought: Collection[str]) -> None:
        self.columns: dict[str, bool] = {}
        """Whether any value was not null, in the order of first appearance."""
        self._chats: set[str] = set()
        stream = iter(records)
        for record in islice(stream, SAMPLE_ROWS):
            for name, value in record.items():
                self.columns[name] = self.columns.get(name, False) or value is not None
                if _is_chat(value):
                    self._chats.add(name)
        self._seek(stream, sought)
        self._names: dict[str, str] = {}
        for name in self.columns:
            plain = name.strip().lower()
            if plain not in self._names or name == plain:
                self._names[plain] = name

    def _seek(self, stream: Iterator[Mapping[str, Any]], sought: Collection[str]) -> None:
        """Columns that few rows have may be mapped, too: they are looked for to the end."""
        missing = {name for name in sought if name not in self.columns and "+" not in name}
        while missing and (record := next(stream, None)) is not None:
            found = missing.intersection(record)
            self.columns |= dict.fromkeys(found, True)
            missing -= found

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
