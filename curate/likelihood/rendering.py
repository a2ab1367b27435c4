"""Examples become token sequences exactly as TRL's SFTTrainer makes them, and each knows which tokens bear loss."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from curate.errors import ModelError
from curate.examples import Example, Message
from curate.likelihood.model import ModelSpec, load_tokenizer, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Turns = Literal["last", "all"]
"""Which assistant messages bear loss."""
TOGETHER = 64
"""Rows tokenised in one call. A token costs some hundred bytes while its offsets are held, so a whole shard would be the
largest thing in memory; the tokenizer is no faster beyond this."""
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""How a template marks what the assistant says; as trl and transformers look for it."""


@dataclass(frozen=True)
class Turn:
    """What is trained of one assistant message: loss falls on the tokens from `start` to `stop` (exclusive)."""

    start: int
    stop: int
    content: tuple[int, int]
    """First token and end (exclusive) of the verbatim text; what follows are the template's closing tokens."""


@dataclass(frozen=True)
class Rendered:
    """One row as token ids, with the turns that bear loss, in order; nothing stands behind the last one."""

    input_ids: Sequence[int]
    turns: Sequence[Turn]
    border_merged: bool = False
    """Loss begins inside the prompt's text: a token spans the border, so training and inference see different contexts."""
    truncated: bool = False

    @classmethod
    def whole(cls, input_ids: Sequence[int], start: int, content: tuple[int, int] | None = None, **flags: bool) -> "Rendered":
        """A row with one turn, which begins at `start`; all of it is content unless told otherwise."""
        return cls(input_ids, (Turn(start, len(input_ids), content or (start, len(input_ids))),), **flags)

    @property
    def start(self) -> int:
        """Tokens before the first that bears loss."""
        return self.turns[0].start

    @property
    def trained(self) -> int:
        """Tokens that bear loss."""
        return sum(turn.stop - turn.start for turn in self.turns)


@dataclass(frozen=True)
class Unrenderable:
    """A row that has no tokens to score; the reason is one of the documented words."""

    reason: str


class ChatTemplateError(ModelError):
    """A chat template raised for one row; the message is its own, in one line."""


class Renderer:
    """Renders rows for one tokenizer: under its chat template where it has one, as plain concatenation where not.

    The reference is SFTTrainer (trl 1.16) on prompt/completion rows with completion-only loss, `max_length`, no packing. Rows
    are tokenised whole and the loss begins at the common prefix with the tokenised prompt. Offsets only tell the verbatim
    completion from the template's closing tokens; they never move the span.

    With `turns="all"` every assistant message of a conversation bears loss, and the reference is SFTTrainer with
    `assistant_only_loss`. Where the template marks them (`{% generation %}`), the tokens are those of transformers' assistant
    masks, which are what is trained. Where it does not, SFTTrainer puts a template of its own in the place of some known ones
    and refuses all others; scores must not depend on which trl is installed, so here a turn is what the conversation up to its
    end has behind the conversation before it, generation prompt included. From the spans of trl's own templates that differs
    in white space at their borders; whoever wants these gives them as chat template.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", *, max_length: int, turns: Turns = "last") -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.turns = turns

    @classmethod
    def load(cls, spec: ModelSpec, *, max_length: int, turns: Turns = "last") -> "Renderer":
        """A renderer from the tokenizer alone, without the model."""
        return cls(load_tokenizer(spec), max_length=max_length, turns=turns)

    @property
    def is_chat(self) -> bool:
        """Whether rows are rendered as conversations."""
        return self.tokenizer.chat_template is not None

    def texts(self, example: Example) -> tuple[str, str]:
        """The prompt as it is rendered alone, and the whole row. Raises ChatTemplateError when the template does not take it."""
        if self.is_chat:
            return self._apply(example.prompt, generate=True), self._apply(example.messages, generate=False)
        (prompt,) = (message["content"] for message in example.messages[:-1])
        eos = str(self.tokenizer.eos_token)
        completion = example.completion
        return prompt, prompt + (completion if completion.endswith(eos) else completion + eos)

    def prompts(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Token ids of prompts as the model is asked: the tokens that training put before the completion, where none merges.

        Raises ChatTemplateError when the template does not take one, ModelError for several turns where there is no template.
        """
        if self.is_chat:
            texts = [self._apply(messages, generate=True) for messages in conversations]
        elif any(len(messages) != 1 for messages in conversations):
            raise ModelError("prompts of several messages need a chat template, which this tokenizer lacks; pass --chat-template")
        else:
            texts = [messages[0]["content"] for messages in conversations]
        found: list[list[int]] = self._tokenize(texts)["input_ids"] if texts else []
        return found

    def _apply(self, messages: Sequence[Message], *, generate: bool) -> str:
        return str(self._call_template(messages, tokenize=False, add_generation_prompt=generate))

    def _call_template(self, messages: Sequence[Message], **options: Any) -> Any:
        try:
            return self.tokenizer.apply_chat_template(list(messages), **options)
        except Exception as error:  # a template is foreign code: it divides by zero, indexes past the end, refuses with no word
            raise ChatTemplateError(one_line(error)[:100]) from error

    def render(self, examples: Sequence[Example]) -> list[Rendered | Unrenderable]:
        """One result per example, in order. Rows are tokenised some at a time, each distinct prompt among them once."""
        return [
            result for at in range(0, len(examples), TOGETHER) for result in self._render_together(examples[at : at + TOGETHER])
        ]

    def _render_together(self, examples: Sequence[Example]) -> list[Rendered | Unrenderable]:
        results: list[Rendered | Unrenderable | None] = [None] * len(examples)
        pending: list[tuple[int, str, str]] = []
        for place, example in enumerate(examples):
            if not example.completion.strip():
                results[place] = Unrenderable("empty_completion")
            elif not self.is_chat and len(example.messages) != 2:
                results[place] = Unrenderable("conversation_without_chat_template")
            else:
                try:
                    if self.turns == "all" and self.is_chat:
                        results[place] = self._all_turns(example)
                    else:
                        pending.append((place, *self.texts(example)))
                except ChatTemplateError as error:
                    results[place] = Unrenderable(f"chat_template: {error}")
        if pending:
            prompts = sorted({prompt for _, prompt, _ in pending})
            prompt_ids = dict(zip(prompts, self._tokenize(prompts)["input_ids"], strict=True))
            whole = self._tokenize([full for _, _, full in pending])
            for number, (place, prompt, full) in enumerate(pending):
                results[place] = self._span(
                    examples[place].completion,
                    prompt,
                    full,
                    prompt_ids[prompt],
                    whole["input_ids"][number],
                    whole["offset_mapping"][number],
                )
        return [result for result in results if result is not None]

    def _all_turns(self, example: Example) -> Rendered | Unrenderable:
        """One row with loss on every assistant message. Raises ChatTemplateError when the template does not take it."""
        messages = example.messages
        said = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        contents = [messages[place]["content"].strip() for place in said]
        full = self._apply(messages, generate=False)
        if _GENERATION.search(self.tokenizer.get_chat_template()):
            # No template renders the prompt of a conversation that the assistant opens; its mask needs none.
            prompts = [self._apply(messages[:place], generate=True) if place else "" for place in said]
            return self._marked(messages, contents, full, prompts)
        prompts = [self._apply(messages[:place], generate=True) for place in said]
        ends = [*(self._apply(messages[: place + 1], generate=False) for place in said[:-1]), full]
        return self._unmarked(contents, full, prompts, ends)

    def _marked(
        self, messages: Sequence[Message], contents: Sequence[str], full: str, prompts: Sequence[str]
    ) -> Rendered | Unrenderable:
        """Turns as the template marks them."""
        encoded = self._call_template(
            messages,
            return_dict=True,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"return_offsets_mapping": True, "verbose": False},
        )
        offsets = encoded["offset_mapping"]
        tokens = runs(encoded["assistant_masks"])
        found = find_contents(contents, full, [(offsets[start][0], offsets[stop - 1][1]) for start, stop in tokens])
        if found is None:
            return Unrenderable("template_altered")
        spans = []
        for (start, stop), held in zip(tokens, found, strict=True):
            if not held:
                spans.append(_Span(start, stop))
                continue
            (number, first), (last, begin) = held[0], held[-1]
            border = len(prompts[number])
            spans_border = any(low < border < high for low, high in offsets[start:stop])
            is_merged = spans_border or not full.startswith(prompts[number])
            spans.append(_Span(start, stop, (first, begin + len(contents[last])), is_merged))
        return self._cut(encoded["input_ids"], offsets, spans)

    def _unmarked(
        self, contents: Sequence[str], full: str, prompts: Sequence[str], ends: Sequence[str]
    ) -> Rendered | Unrenderable:
        """Turns by what the conversation up to each end has behind its prompt."""
        if not all(full.startswith(end) for end in ends):
            return Unrenderable("template_altered")
        encoded = self._tokenize([full, *prompts, *ends])
        ids, *others = encoded["input_ids"]
        spans: list[_Span] = []
        done = 0
        parts = zip(contents, prompts, ends, others[: len(prompts)], others[len(prompts) :], strict=True)
        for content, prompt, end, prompt_ids, end_ids in parts:
            first = find_content(content, prompt, end) if content else None
            if content and first is None:
                return Unrenderable("template_altered")
            start, stop = max(common_prefix(prompt_ids, ids), done), common_prefix(end_ids, ids)
            text = None if first is None else (first, first + len(content))
            spans.append(_Span(start, stop, text, start < len(prompt_ids)))
            done = max(done, stop)
        return self._cut(ids, encoded["offset_mapping"][0], spans)

    def _cut(self, ids: Sequence[int], offsets: Sequence[tuple[int, int]], spans: Sequence["_Span"]) -> Rendered | Unrenderable:
        """The turns inside `max_length`; nothing stays behind the last of them."""
        end = min(len(ids), self.max_length)
        is_cut = any(span.stop > end for span in spans)
        turns: list[Turn] = []
        is_merged = False
        for span in spans:
            start, stop = max(span.start, 1), min(span.stop, end)  # position 0 has no context
            if start >= stop:
                continue
            low, high = span.text or (0, 0)
            inside = [place for place in range(start, stop) if offsets[place][0] < high and offsets[place][1] > low]
            turns.append(Turn(start, stop, (inside[0], inside[-1] + 1) if inside else (start, start)))
            is_merged |= span.is_merged
        if not any(turn.content[0] < turn.content[1] for turn in turns):
            return Unrenderable("too_long" if is_cut else "no_completion_tokens")
        return Rendered(ids[: turns[-1].stop], turns, border_merged=is_merged, truncated=is_cut)

    def _tokenize(self, texts: list[str]) -> Any:
        # A template writes its own special tokens; plain text gets those that the tokenizer adds (BOS), as TRL does it.
        return self.tokenizer(
            texts, add_special_tokens=not self.is_chat, return_offsets_mapping=True, return_attention_mask=False, verbose=False
        )

    def _span(
        self,
        completion: str,
        prompt: str,
        full: str,
        prompt_ids: Sequence[int],
        ids: Sequence[int],
        offsets: Sequence[tuple[int, int]],
    ) -> Rendered | Unrenderable:
        start = common_prefix(prompt_ids, ids)
        first = find_content(completion, prompt, full)
        if first is None:
            return Unrenderable("template_altered")
        last = first + len(completion.strip())
        end = min(len(ids), self.max_length)
        # Position 0 has no context and bears no loss, whatever its label.
        start = max(start, 1)
        if start >= end:
            return Unrenderable("too_long" if start < len(ids) else "no_completion_tokens")
        inside = [place for place in range(start, end) if offsets[place][0] < last and offsets[place][1] > first]
        content = (inside[0], inside[-1] + 1) if inside else (start, start)
        if not inside:
            return Unrenderable("too_long" if end < len(ids) else "no_completion_tokens")
        return Rendered.whole(ids[:end], start, content, border_merged=start < len(prompt_ids), truncated=end < len(ids))


@dataclass(frozen=True)
class _Span:
    """Tokens that bear loss before the row is cut, and the characters of the messages that stand verbatim among them."""

    start: int
    stop: int
    text: tuple[int, int] | None = None
    is_merged: bool = False


def runs(mask: Sequence[int]) -> list[tuple[int, int]]:
    """Start and end (exclusive) of every stretch of ones."""
    groups = (list(places) for bit, places in itertools.groupby(range(len(mask)), key=mask.__getitem__) if bit)
    return [(places[0], places[-1] + 1) for places in groups]


def find_contents(contents: Sequence[str], full: str, extents: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]] | None:
    """For each extent of a rendered row the contents that stand in it, in order: number and first character.

    Empty contents stand nowhere, and a template may leave a message untrained. None if it changed one.
    """
    found: list[list[tuple[int, int]]] = [[] for _ in extents]
    is_each = len(contents) == len(extents)
    at = done = 0
    for number, content in enumerate(contents):
        if not content:
            continue
        for extent in [number] if is_each else range(at, len(extents)):
            low, high = extents[extent]
            place = full.find(content, max(low, done), high)
            if place >= 0:
                found[extent].append((number, place))
                at, done = extent, place + len(content)
                break
        else:
            if is_each or content not in full:
                return None
    return found


def common_prefix(ids: Sequence[object], other_ids: Sequence[object]) -> int:
    """Number of leading tokens (or characters) that two sequences share."""
    shortest = min(len(ids), len(other_ids))
    if ids[:shortest] == other_ids[:shortest]:
        return shortest
    return next(place for place in range(shortest) if ids[place] != other_ids[place])


def find_content(completion: str, prompt: str, full: str) -> int | None:
    """Where the completion, stripped of outer white space, stands in the rendered row; None if the template changed it."""
    stripped = completion.strip()
    border = common_prefix(prompt, full)
    place = full.find(stripped, border)
    if place >= 0:
        return place
    # A generation prompt may open with what the completion also begins with ("<think>"): then the border lies inside it.
    place = full.rfind(stripped)
    return place if place >= 0 and place + len(stripped) > border else None
