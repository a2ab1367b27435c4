"""Which model a filter asks, and what of a row that model sees."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from curate.errors import ModelError, UsageError
from curate.examples import Example
from curate.filters.base import Filter
from curate.filters.normalisation import RULES, WHAT, normalised, read_names
from curate.filters.shots import MOST_SHOTS, Shots, load_shots, prefix_tokens, render_behind
from curate.likelihood import ModelSpec, Rendered, Turns, default_device, model_identity
from curate.likelihood.model import Dtype, Quantize, check_device, default_dtype, maximal_length

if TYPE_CHECKING:
    from curate.likelihood import Renderer, Unrenderable

TRL_MAX_LENGTH = 1024
"""SFTConfig's default: rows are scored on what a trainer left alone would train on."""
Normalisers = Annotated[tuple[str, ...], BeforeValidator(read_names)]


class ModelSettings(Filter):
    """Which model, and what of a row it sees. Base of all filters that ask the target model."""

    described_by_identity: ClassVar[tuple[str, ...]] = (
        *("model", "revision", "dtype", "quantize", "max_length", "chat_template", "normalise", "turns", "few_shot"),
    )

    model: str = Field(
        description="A folder as save_pretrained writes it, or a Hub id; in a recipe `target` is the run's --model."
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit of a Hub model.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="Number type of the model's body; auto: bfloat16 on CUDA, float32 elsewhere."
    )
    quantize: Quantize | None = Field(
        default=None,
        description="Hold the body's weight matrices in 4 bits (NF4) or 8 (LLM.int8), by bitsandbytes; embeddings and head stay.",
    )
    max_length: int | None = Field(
        default=None,
        ge=2,
        description="Tokens per row, as in SFTConfig; default 1024, or fewer if the model has fewer positions.",
    )
    chat_template: Path | None = Field(default=None, description="A Jinja file that replaces the tokenizer's own template.")
    normalise: Normalisers = Field(default=(), description=WHAT)
    turns: Turns = Field(
        default="last",
        description="Which assistant messages bear loss; all: as SFTConfig's assistant_only_loss trains conversations.",
    )
    few_shot: Path | None = Field(
        default=None, description=f"A file of at most {MOST_SHOTS} examples that stand before every prompt."
    )
    device: str | None = Field(
        default=None, exclude=True, description="cpu, cuda, cuda:1 ..., auto (all GPUs); default: cuda where there is one."
    )
    batch_tokens: int | None = Field(default=None, exclude=True, ge=1, description="Tokens per batch.")
    compile: bool | None = Field(
        default=None, exclude=True, description="Compile the model's layers first, for long runs; default: no."
    )

    @model_validator(mode="after")
    def _turns_make_sense(self) -> Self:
        if self.turns == "all" and (why := self.why_last_turn_only()):
            raise ValueError(f"turns: all {why}; leave it at `last`")
        return self

    def why_last_turn_only(self) -> str | None:
        """Why these settings are not for `turns: all`; None where they are."""
        return None

    @property
    def spec(self) -> ModelSpec:
        """What the loader needs, with every default resolved. Raises UsageError for a device that is not there."""
        if self.device is not None:  # the default is checked in `freeze`: it costs the import of torch
            check_device(self._resolved_device())
        device = self._resolved_device()
        dtype: Dtype = default_dtype(device) if self.dtype == "auto" else self.dtype
        return ModelSpec(self.model, self.revision, dtype, device, self._template(), self.quantize)

    def _resolved_device(self) -> str:
        """The device's name; `auto` without a GPU is the CPU."""
        default = default_device()
        return default if self.device is None or (self.device == "auto" and default == "cpu") else self.device

    def _template(self) -> str | None:
        if self.chat_template is None:
            return None
        try:
            text = self.chat_template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--chat-template {self.chat_template}: not readable ({error})") from error
        if not text.strip():
            raise UsageError(f"--chat-template {self.chat_template}: is empty; it would render every row as nothing")
        return text

    def resolved_max_length(self) -> int:
        """Tokens per row; raises ModelError when more are asked for than the model has positions."""
        positions = self.positions()
        if self.max_length is None:
            return min(TRL_MAX_LENGTH, positions or TRL_MAX_LENGTH)
        if positions is not None and self.max_length > positions:
            raise ModelError(
                f"{self.model}: max_length {self.max_length}, but the model has {positions} positions; ask for fewer"
            )
        return self.max_length

    def positions(self) -> int | None:
        """Positions that the model was made for; None where its config does not say."""
        return maximal_length(self.spec)

    def model_facts(self) -> dict[str, Any]:
        """The part of the fingerprint that says which model saw what."""
        spec = self.spec
        template = None if spec.chat_template is None else hashlib.sha256(spec.chat_template.encode()).hexdigest()
        facts: dict[str, Any] = {
            "model": model_identity(spec.model, spec.revision),
            "dtype": spec.dtype,
            "max_length": self.resolved_max_length(),
            "chat_template": template or "the tokenizer's own",
        }
        if self.quantize:
            facts["quantize"] = self.quantize
        if self.normalise:
            facts |= {"normalise": list(self.normalise), "normalise_rules": RULES}
        if self.turns != "last":
            facts["turns"] = self.turns
        if shots := self.shots():
            facts["few_shot"] = shots.digest
        return facts

    def freeze(self) -> dict[str, Any]:
        """Whether rows are rendered as conversations: kept rows are written in the layout in which they were scored."""
        return {"conversational": self.renderer().is_chat}

    def renderer(self) -> "Renderer":
        """The renderer of this filter's tokenizer, without loading the model."""
        from curate.likelihood import Renderer

        return Renderer.load(self.spec, max_length=self.resolved_max_length(), turns=self.turns)

    def rendered(self, examples: Sequence[Example], renderer: "Renderer") -> "list[Rendered | Unrenderable]":
        """The rows as token ids, normalised first, behind the shots."""
        from curate.likelihood import Unrenderable

        seen = [normalised(example, self.normalise, turns=self.turns) for example in examples]
        rows = [
            Unrenderable("empty_after_normalising") if example.completion.strip() and not shown.completion.strip() else row
            for example, shown, row in zip(examples, seen, renderer.render(seen), strict=True)
        ]
        shots = self.shots()
        if shots is None:
            return rows
        self._check_positions(shots, renderer)
        rows = [Unrenderable("is_a_shot") if shots.holds(example) else row for example, row in zip(examples, rows, strict=True)]
        behind = render_behind(shots.normalised(self.normalise), seen, rows, renderer)
        positions = self.positions() or math.inf
        return [
            Unrenderable("too_long") if isinstance(row, Rendered) and len(row.input_ids) > positions else row for row in behind
        ]

    def shots(self) -> Shots | None:
        """What stands before every prompt; raises InputError or UsageError for a file that cannot be shown."""
        return None if self.few_shot is None else load_shots(self.few_shot)

    def check_machine(self) -> list[str]:
        """Raise ModelError where the model has no room for the longest row behind the shots."""
        if shots := self.shots():
            self._check_positions(shots, self.renderer())
        return super().check_machine()

    def _check_positions(self, shots: Shots, renderer: "Renderer") -> None:
        positions = self.positions()
        taken = prefix_tokens(shots.normalised(self.normalise), renderer)
        if positions is not None and taken + renderer.max_length > positions:
            left = positions - taken
            raise ModelError(
                f"{self.model}: few_shot {self.few_shot} takes {taken} tokens and max_length is {renderer.max_length}, but the "
                f"model has {positions} positions; "
                + (f"set max_length to {left} or less" if left >= 2 else "show fewer or shorter examples")
            )

    def passed_on(self) -> dict[str, Any]:
        """The model settings, for a filter that this one depends on."""
        return {name: getattr(self, name) for name in ModelSettings.model_fields}
