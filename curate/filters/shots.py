"""Examples that stand before every prompt, so that a completion is scored in their context."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

from curate.errors import InputError, ModelError, UsageError
from curate.examples import Example, Message, Refused, load_examples, stable_hash
from curate.filters.normalisation import normalised
from curate.likelihood import Rendered, Renderer, Turn, Unrenderable

MOST_SHOTS = 64
SEPARATOR = "\n\n"
"""After each shot, for a model without a chat template; prompt and completion are joined as those of a row are."""


@dataclass(frozen=True)
class Shots:
    """Conversations in the order in which they are shown."""

    conversations: tuple[tuple[Message, ...], ...]

    @cached_property
    def digest(self) -> str:
        """A hash of all that is shown."""
        return stable_hash(self.conversations)

    def holds(self, example: Example) -> bool:
        """Whether a row is itself one of the shots."""
        return tuple(example.messages) in self.conversations

    def normalised(self, names: Sequence[str]) -> "Shots":
        """The shots without the named markup in their completions."""
        return Shots(tuple(tuple(normalised(Example(turns), names).messages) for turns in self.conversations))


def load_shots(path: Path) -> Shots:
    """The examples of a file, in any layout that can be read as data; read again when the file has changed.

    Raises InputError where there is no such file or not each of its rows can be read, UsageError for more than 64.
    """
    path = path.expanduser()
    if not path.is_file():
        raise InputError(f"few_shot {path}: no such file; paths are relative to the current directory, {Path.cwd()}")
    facts = path.stat()
    return _load_shots(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=8)
def _load_shots(path: Path, size: int, changed_ns: int) -> Shots:
    shots = []
    for record in load_examples(path, limit=MOST_SHOTS + 1).records():
        if isinstance(record, Refused):
            raise InputError(f"few_shot {record.place}: {record.reason}: {record.detail}; mend or remove the row: all are shown")
        if not record.completion.strip():
            raise InputError(f"few_shot {path}: row {record.row} has an empty completion; it would show nothing")
        shots.append(tuple(record.messages))
    if len(shots) > MOST_SHOTS:
        raise UsageError(f"few_shot {path}: more than {MOST_SHOTS} examples; give a file of the few that are to be shown")
    return Shots(tuple(shots))


def shown_before(example: Example, shots: Shots, *, is_chat: bool) -> Example:
    """A row with the shots as earlier turns, behind its own system message; without a chat template as text before its prompt.

    System messages of the shots are left out. Raises ModelError for a shot of several turns where there is no template.
    """
    if is_chat:
        turns = [message for shot in shots.conversations for message in shot if message["role"] != "system"]
        first = int(example.messages[0]["role"] == "system")
        return replace(example, messages=[*example.messages[:first], *turns, *example.messages[first:]])
    if any(len(shot) != 2 for shot in shots.conversations):
        raise ModelError(
            "few_shot: examples of several turns need a chat template, which this tokenizer lacks; pass --chat-template"
        )
    if len(example.messages) != 2:
        return example  # several turns without a template: the renderer says so
    text = "".join(f"{prompt['content']}{completion['content']}{SEPARATOR}" for prompt, completion in shots.conversations)
    prompt, completion = example.messages
    return replace(example, messages=[{**prompt, "content": text + prompt["content"]}, completion])


def prefix_tokens(shots: Shots, renderer: Renderer) -> int:
    """Tokens that the shots add to a row."""
    row = Example([{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}])
    behind, alone = _endless(renderer).render([shown_before(row, shots, is_chat=renderer.is_chat), row])
    # A template that refuses this conversation refuses the rows too, each with its reason.
    is_known = isinstance(behind, Rendered) and isinstance(alone, Rendered)
    return len(behind.input_ids) - len(alone.input_ids) if is_known else 0  # type: ignore[union-attr]


def render_behind(
    shots: Shots, examples: Sequence[Example], rows: Sequence[Rendered | Unrenderable], renderer: Renderer
) -> list[Rendered | Unrenderable]:
    """`rows`, which are the examples rendered alone, with the shots before them; the same tokens bear loss."""
    endless = _endless(renderer)
    cut = [place for place, row in enumerate(rows) if isinstance(row, Rendered) and row.truncated]
    wholes = dict(zip(cut, endless.render([examples[place] for place in cut]), strict=True))
    places = [place for place, row in enumerate(rows) if isinstance(row, Rendered)]
    behind = endless.render([shown_before(examples[place], shots, is_chat=renderer.is_chat) for place in places])
    found = list(rows)
    for place, row in zip(places, behind, strict=True):
        alone, whole = rows[place], wholes.get(place, rows[place])
        assert isinstance(alone, Rendered)
        assert isinstance(whole, Rendered), "a row that can be rendered cut can be rendered whole"
        found[place] = _aligned(alone, whole, row) if isinstance(row, Rendered) else row
    return found


def _endless(renderer: Renderer) -> Renderer:
    endless = copy(renderer)
    endless.max_length = 1 << 40
    return endless


def _aligned(alone: Rendered, whole: Rendered, behind: Rendered) -> Rendered | Unrenderable:
    """A row behind the shots, whose turns stand and which ends where they do alone; `whole` is the row alone and not cut."""
    by = len(behind.input_ids) - len(whole.input_ids)
    end = len(alone.input_ids) + by
    if list(behind.input_ids[alone.start + by : end]) == list(alone.input_ids[alone.start :]):
        turns = [Turn(turn.start + by, turn.stop + by, (turn.content[0] + by, turn.content[1] + by)) for turn in alone.turns]
        return replace(alone, input_ids=behind.input_ids[:end], turns=turns)
    # Tokens at the border merge otherwise behind the shots: what is scored is the same text, in other tokens.
    turns = [
        Turn(turn.start, min(turn.stop, end), (min(turn.content[0], end), min(turn.content[1], end)))
        for turn in behind.turns[-len(whole.turns) :]
        if turn.start < end
    ]
    if all(first == stop for first, stop in (turn.content for turn in turns)):
        return Unrenderable("too_long")
    return replace(behind, input_ids=behind.input_ids[:end], turns=turns, truncated=alone.truncated)
