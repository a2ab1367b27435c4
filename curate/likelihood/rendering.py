"""Examples become token sequences exactly as TRL's SFTTrainer makes them, and each knows which tokens bear loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from curate.errors import ModelError
from curate.examples import Example, Message
from curate.likelihood.model import ModelSpec, load_tokenizer, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


TOGETHER = 64
"""Rows tokenised in one call. A token costs some hundred bytes while its offsets are held, so a whole shard would be the
largest thing in memory; the tokenizer is no faster beyond this."""


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
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", *, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length

    @classmethod
    def load(cls, spec: ModelSpec, *, max_length: int) -> "Renderer":
        """A renderer from the tokenizer alone, without the model."""
        return cls(load_tokenizer(spec), max_length=max_length)

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
        try:
            return str(self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=generate))
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
