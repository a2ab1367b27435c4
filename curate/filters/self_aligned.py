"""Perplexity of the completion where the prompt also shows the target model's own correct answers to other questions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import Field, PrivateAttr, model_validator

from curate.errors import UsageError
from curate.examples import Example, stable_hash
from curate.filters.answers import read_answer
from curate.filters.base import OutputType, Scores, Unscored, register
from curate.filters.likelihood import ForwardPass, finite_exp, mean_of
from curate.filters.normalisation import strip_markup
from curate.filters.shots import Shots, prefix_tokens, shown_before
from curate.likelihood import Renderer
from curate.rows import RowStore


@dataclass(frozen=True)
class Demonstration:
    """One of the target's own answers that is known to be right."""

    row: int
    prompt_key: str
    question: str
    answer: str


@register("self_aligned")
class SelfAligned(ForwardPass):
    """Perplexity of the completion where the prompt also shows k correct answers of the target model's own. Lower suits it.

    The answers set the manner in which the model would answer; a completion in another manner stays surprising. Made to choose
    between *sources* of responses; that it also ranks rows is not shown.

    Outputs:
        content_nll: mean negative log-likelihood of the verbatim completion, in nats per token. In [0, inf).
        content_tokens: tokens that the mean is taken over.
        perplexity: exp(content_nll), in [1, inf); null where it would overflow.
        truncated: the row is longer than max_length, or than the model's positions leave room for.

    The demonstrations are rows of the source `own` whose final answer equals gold by the rules of `errors.wrong`, one a question,
    of at most `most_characters`, drawn by `seed` from their texts alone: other rows change nothing. k + 1 are drawn; a row whose
    question is among the first k sees the last one instead, and never its own answer. They stand as earlier turns, after a
    system message; without a chat template as text before the prompt. `normalise` holds for them too.
    max_length counts the row without its demonstrations, which come on top as far as the model has positions.

    Unscored: as `likelihood`. Refused where `own` is not set, and where fewer than k + 1 of its questions are known to be
    answered right: answers that only tests can judge (code) are not known to be.
    Cost: a forward pass of its own over row and demonstrations, which every row reads again: with k = 3 on GSM8K about three
    times the tokens of `perplexity`.
    Source: arXiv:2502.11779 (self-aligned perplexity, k = 3). Differences: the demonstrations are the same for all rows, so that
    the scores of two rows differ by their completions alone.
    """

    version: ClassVar[int] = 1
    reads: ClassVar = ("messages", "group")
    outputs: ClassVar[Mapping[str, OutputType]] = {
        "content_nll": "float64",
        "content_tokens": "int64",
        "perplexity": "float64",
        "truncated": "bool",
    }

    own: str | None = Field(default=None, description="The `source` that holds the target model's own answers; has to be given.")
    k: int = Field(default=3, ge=1, le=32, description="Demonstrations in front of every row.")
    seed: int = Field(default=0, ge=0, description="Of the draw of the demonstrations.")
    most_characters: int = Field(default=1500, ge=1, description="Longest question and answer of a demonstration, together.")
    _demonstrations: tuple[Demonstration, ...] = PrivateAttr(default=())

    @model_validator(mode="after")
    def _shows_its_own(self) -> Self:
        if self.few_shot is not None:
            raise ValueError("few_shot is not for self_aligned, which shows demonstrations of its own; leave it out")
        return self

    def fit(self, examples: Iterable[Example]) -> Self:
        """This filter with its demonstrations drawn.

        Raises UsageError when there are too few, or when they would take more than half of the model's positions.
        """
        own = self._source()
        drawn = _Draw(self.seed, self.k + 1, self.most_characters)
        sources: set[str] = set()
        for example in _each(examples):
            sources |= {str(example.source)} if example.source is not None else set()
            if example.source == own:
                drawn.offer(example)
        drawn.check(own, sources)
        bound = self.model_copy()
        bound._demonstrations = tuple(drawn.chosen())
        bound._check_room()
        return bound

    def _source(self) -> str:
        if self.own is None:
            raise UsageError(
                "self_aligned needs correct answers of the target model's own, and `own` is not set: say which source holds "
                "them, such as `self_aligned: {model: target, own: my-model}`; to change a shipped recipe, begin with "
                "`curate recipes NAME > mine.yaml`. Without such rows use perplexity"
            )
        return self.own

    def identity(self) -> dict[str, Any]:
        """The model, and what it is shown. Raises UsageError when `own` is not set."""
        self._source()
        shown = [[one.prompt_key, one.question, one.answer] for one in self._demonstrations]
        return super().identity() | {"demonstrations": stable_hash(shown) if shown else None}

    def findings(self) -> dict[str, Any]:
        """The rows of the demonstrations, and how many tokens these add to a row."""
        first = self._demonstrations[: self.k]
        return {"demonstrations": [one.row for one in first], "prefix_tokens": self._prefix_tokens(self.renderer(), first)}

    def why_last_turn_only(self) -> str | None:
        """The demonstrations stand as earlier turns, and bear no loss."""
        return "would score the demonstrations, which stand as earlier turns"

    def score_batch(self, examples: Sequence[Example]) -> list[Scores | Unscored]:
        """One forward pass over rows and demonstrations."""
        if not self._demonstrations:
            self._source()
            raise UsageError(
                "self_aligned draws demonstrations from the rows: call fit(examples) first, or give an output folder"
            )
        shown = [self._shown_to(example) for example in examples]
        renderers = {demonstrations: self._renderer_behind(demonstrations) for demonstrations in set(shown)}
        rows: list[Any] = [None] * len(examples)
        for demonstrations, renderer in renderers.items():
            places = [place for place, one in enumerate(shown) if one == demonstrations]
            seen = [self._prefixed(examples[place], demonstrations, is_chat=renderer.is_chat) for place in places]
            for place, row in zip(places, self.rendered(seen, renderer), strict=True):
                rows[place] = row
        return [self._scores(result) for result in self.run(rows)]

    def _shown_to(self, example: Example) -> tuple[Demonstration, ...]:
        """k demonstrations, none of them of this row's question."""
        return tuple(one for one in self._demonstrations if one.prompt_key != example.prompt_key)[: self.k]

    def _prefixed(self, example: Example, demonstrations: Sequence[Demonstration], *, is_chat: bool) -> Example:
        return shown_before(example, self._as_shots(demonstrations), is_chat=is_chat)

    def _as_shots(self, demonstrations: Sequence[Demonstration]) -> Shots:
        pairs = [(one.question, strip_markup(one.answer, self.normalise).text) for one in demonstrations]
        return Shots(
            tuple(({"role": "user", "content": asked}, {"role": "assistant", "content": answer}) for asked, answer in pairs)
        )

    def _prefix_tokens(self, renderer: Renderer, demonstrations: Sequence[Demonstration]) -> int:
        """Tokens that demonstrations add to a row."""
        return prefix_tokens(self._as_shots(demonstrations), renderer)

    def _renderer_behind(self, demonstrations: Sequence[Demonstration]) -> Renderer:
        """A renderer that leaves a row the room which it has without demonstrations, as far as the model has positions."""
        plain = self.renderer()
        wanted = plain.max_length + self._prefix_tokens(plain, demonstrations)
        positions = self.positions()
        return Renderer(plain.tokenizer, max_length=wanted if positions is None else min(wanted, positions))

    def _check_room(self) -> None:
        positions = self.positions()
        if positions is None:
            return
        taken = self._prefix_tokens(self.renderer(), self._demonstrations[: self.k])
        if taken > positions // 2:
            raise UsageError(
                f"self_aligned: the {self.k} demonstrations take {taken} of the model's {positions} positions, and little would "
                f"be left for the rows; ask for shorter ones (most_characters, now {self.most_characters}) or fewer (k)"
            )

    @staticmethod
    def _scores(sums: Scores | Unscored) -> Scores | Unscored:
        if isinstance(sums, Unscored):
            return sums
        nll = mean_of(sums, "content_nll", "content_tokens")
        return {
            "content_nll": nll,
            "content_tokens": sums["content_tokens"],
            "perplexity": finite_exp(nll),
            "truncated": sums["truncated"],
        }


class _Draw:
    """Keeps the `count` questions whose right answers have the lowest hashes: a draw that does not depend on the rows' order."""

    def __init__(self, seed: int, count: int, most_characters: int) -> None:
        self.seed, self.count, self.most_characters = seed, count, most_characters
        self.held: dict[str, tuple[str, Demonstration]] = {}
        self.rows = self.with_gold = 0

    def offer(self, example: Example) -> None:
        """Take an answer of the target's own if it is right, short, and its hash among the lowest."""
        self.rows += 1
        self.with_gold += example.gold is not None
        question = _question(example)
        if question is None or len(question) + len(example.completion) > self.most_characters or not example.completion.strip():
            return
        key = stable_hash([self.seed, question, example.completion])
        known = self.held.get(example.prompt_key)
        worst = max(self.held, key=lambda name: self.held[name][0], default=None) if len(self.held) == self.count else None
        if known is not None:
            if key >= known[0]:
                return
        elif worst is not None and key >= self.held[worst][0]:
            return
        if not read_answer(example.completion, example.gold, example.prompt_text).is_right:
            return
        if known is None and worst is not None:
            del self.held[worst]
        self.held[example.prompt_key] = (key, Demonstration(example.row, example.prompt_key, question, example.completion))

    def chosen(self) -> list[Demonstration]:
        """In the order of their hashes."""
        return [one for _, one in sorted(self.held.values(), key=lambda pair: pair[0])]

    def check(self, own: str, sources: Iterable[str]) -> None:
        """Raise UsageError where too few were found."""
        if len(self.held) >= self.count:
            return
        if not self.rows:
            listed = ", ".join(sorted(sources)[:20])
            there = f"there are {listed}" if sources else "no row names its source (--columns source=NAME)"
            raise UsageError(f"self_aligned: no row is of the source {own!r}; {there}")
        raise UsageError(
            f"self_aligned needs right answers to {self.count} questions from {own!r}, each of at most {self.most_characters} "
            f"characters with its question; it found {len(self.held)} among {self.rows:,} rows ({self.with_gold:,} have gold). "
            "Add answers that equal gold (--columns gold=NAME), or ask for fewer demonstrations (k)"
        )


def _each(examples: Iterable[Example]) -> Iterator[Example]:
    """The rows, without the user's other columns where they need not be read."""
    if isinstance(examples, RowStore):
        for shard in examples.shards:
            yield from examples.examples(shard)
        return
    yield from examples


def _question(example: Example) -> str | None:
    """What the user asked; None for a conversation of several turns, which is no demonstration of one answer."""
    asked = [message["content"] for message in example.prompt if message["role"] == "user"]
    return asked[0] if len(asked) == 1 and all(message["role"] != "assistant" for message in example.prompt) else None
