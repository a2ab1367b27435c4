"""The forward pass as an annotation of its own, so that other filters derive their scores from it."""

import functools
import hashlib
import math
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import xxhash
from pydantic import BeforeValidator, Field, model_validator

from curate import progress
from curate.errors import ModelError, UsageError
from curate.examples import Example
from curate.filters.base import BackOff, Filter, OutputType, Scores, Unscored, register
from curate.filters.normalisation import RULES, WHAT, normalised, read_names
from curate.filters.shots import MOST_SHOTS, Shots, load_shots, prefix_tokens, render_behind
from curate.likelihood import ModelSpec, Rendered, TokenScores, Turns, default_device, model_identity
from curate.likelihood.model import (
    ATTENTION,
    Dtype,
    Quantize,
    check_device,
    check_quantize,
    default_dtype,
    device_name,
    maximal_length,
)

if TYPE_CHECKING:
    from curate.likelihood import Engine, Renderer, Unrenderable

TRL_MAX_LENGTH = 1024
"""SFTConfig's default: rows are scored on what a trainer left alone would train on."""
MOST_PASSES = 4
"""Forward passes whose results are held: filters of one run ask for the same rows one after the other, two views of them at
most. A pass over a shard of 512 rows of 1,000 tokens takes some two megabytes."""
NO_UNCONDITIONAL = "has no unconditional view: what stands before a later turn holds the earlier ones"
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


class ForwardPass(ModelSettings):
    """Base of the filters that run the model themselves; the others derive their scores from one of these."""

    def identity(self) -> dict[str, Any]:
        """Weights, tokenizer, template, dtype and length."""
        return self.model_facts()

    def freeze(self) -> dict[str, Any]:
        """Device, batch budget, number path and versions."""
        import torch
        import transformers

        from curate.likelihood import compiling, products

        spec = self.spec
        check_device(spec.device)
        check_quantize(spec)
        if self.compile:
            compiling.check_compiler(spec.device)
        return super().freeze() | {
            "model": model_identity(spec.model, spec.revision),
            "device": spec.device,
            "device_name": device_name(spec.device),
            "batch_tokens": self.batch_tokens or self.engine().budget(),
            "dtype": spec.dtype,
            # By what the model can do: rows in packs, or padded with the first of the others that its architecture has.
            "attention": ", else ".join(("packs", *ATTENTION)),
            "threads": torch.get_num_threads(),
            "products": products.choose() if spec.device == "cpu" and spec.dtype == "float32" else "default",
            "compiled": bool(self.compile),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            **({"bitsandbytes": version("bitsandbytes")} if spec.quantize else {}),
            # How the layers are spread depends on what is free when they are loaded.
            **({"device_map": self.engine().device_map} if spec.device == "auto" else {}),
        }

    def frozen(self, settings: Mapping[str, Any], *, backoff: int = 0) -> Self:
        """Bound to the plan's device, threads and budget.

        Raises UsageError when the plan's device is not here, ModelError when the model is no longer the one planned for.
        """
        import torch

        from curate.likelihood import products

        try:
            check_device(settings["device"])
        except UsageError as error:
            raise UsageError(f"{error}; the plan of this folder was frozen with it, so choose another with --out") from error
        self._tell_what_is_ignored(settings)
        if settings.get("model", now := model_identity(self.model, self.revision)) != now:
            raise ModelError(f"{self.model}: changed while it was scoring; let training end, then run the same command again")
        if torch.get_num_threads() != settings["threads"]:
            torch.set_num_threads(settings["threads"])  # sums are split by thread: another count, another last digit
        products.use(settings.get("products", "default"))
        budget = max(1, settings["batch_tokens"] >> backoff)
        bound = {"device": settings["device"], "batch_tokens": budget, "compile": settings.get("compiled", False)}
        return self.model_copy(update=bound)

    def _tell_what_is_ignored(self, settings: Mapping[str, Any]) -> None:
        """Say which options of this run a frozen plan overrides."""
        asked = {"device": self.device and self._resolved_device(), "batch_tokens": self.batch_tokens}
        asked |= {"compiled": self.compile}
        differing = {name: value for name, value in asked.items() if value is not None and value != settings.get(name, False)}
        if differing:
            frozen = ", ".join(f"{name} {settings[name]}" for name in differing)
            ignored = ", ".join(f"{name} {value}" for name, value in differing.items())
            _tell_once(f"the plan of this folder was frozen with {frozen}; {ignored} is ignored")

    def engine(self) -> "Engine":
        """The loaded model; loaded once per process, and again when its folder's files change."""
        from curate.likelihood import load_engine

        return load_engine(self.spec, compiled=bool(self.compile))

    def run(self, rows: "Sequence[Rendered | Unrenderable]") -> list[Scores | Unscored]:
        """The sums of all rows, as outputs."""
        found = self.run_tokens(rows)
        return [one.sums.as_scores() if isinstance(one, TokenScores) else Unscored(one.reason) for one in found]

    def run_tokens(self, rows: "Sequence[Rendered | Unrenderable]") -> "list[TokenScores | Unrenderable]":
        """One forward pass over all rows, in batches planned from them and the token budget; none where it was just made."""
        import torch

        from curate.likelihood import OutOfMemory, products

        budget = self.batch_tokens or self.freeze()["batch_tokens"]
        spec = self.spec
        key = (spec, spec.digest(), self.compile, budget, torch.get_num_threads(), products.current(), _digest(rows))
        if key in _PASSES:
            _PASSES.move_to_end(key)
            return _PASSES[key]
        engine = self.engine()
        try:
            with progress.forward_pass():
                found = engine.score_tokens(rows, batch_tokens=budget, on_tokens=lambda tokens: progress.tick(tokens=tokens))
        except OutOfMemory as error:
            raise BackOff from error
        _PASSES[key] = found
        while len(_PASSES) > MOST_PASSES:
            _PASSES.popitem(last=False)
        return found


@register("likelihood")
class Likelihood(ForwardPass):
    """Sums of token statistics under the target model, from one forward pass; other filters derive their scores from it.

    What is scored is what TRL's SFTTrainer would train on: the row is rendered under the model's chat template (plain
    concatenation where it has none) and loss begins at the common prefix with the rendered prompt. Natural logarithms, nats.

    Outputs:
        tokens: trained tokens, template end and EOS included.
        nll: sum of -ln p(token) over them; lower is more familiar. In [0, inf).
        entropy: sum of the entropies of the predicted distributions. In [0, tokens x ln V].
        log_rank: sum of ln(rank of the token among all of the vocabulary, from 1). In [0, tokens x ln V].
        var_logp: sum of the variances of ln p under the model itself (Fast-DetectGPT's denominator, squared).
        content_tokens: tokens of the verbatim completion, without the template's closing tokens.
        content_nll: as nll, over the content.
        content_entropy: as entropy, over the content.
        content_log_rank: as log_rank, over the content.
        content_var_logp: as var_logp, over the content.
        truncated: the row is longer than max_length and is scored on the part that would be trained.
        border_merged: loss begins inside the prompt's text, because a token spans the border.

    Unscored: empty_completion; too_long (the prompt alone fills max_length); template_altered (the completion does not stand
    verbatim in the rendered row); conversation_without_chat_template; chat_template: ... (it raised); no_completion_tokens;
    nonfinite; out_of_memory (the row alone does not fit); empty_after_normalising; is_a_shot (it is shown before the others).
    With `view: unconditional` the content is scored without its prompt, after the BOS token (EOS where there is none): the
    same tokens, so that both views can be compared.
    With `normalise` the completion is scored without the named markup, here and in every filter that takes the option. Kept
    rows stay as they were read: what is trained still holds the markup, so such a score is no longer of exactly what is trained.
    With `quantize` the model is another one: scores compare with each other, not with those of the whole weights.
    With `turns: all` the sums are over every assistant message of a conversation (the filter `turns` gives them one by one), as
    SFTTrainer trains it with `assistant_only_loss`; where the chat template lacks `{% generation %}`, each turn with all that
    the template puts behind it. A message that does not stand verbatim in the rendered row makes it template_altered.
    With `few_shot` the examples of a file stand before every prompt, as earlier turns behind the row's own system message (their
    own are left out), without a chat template as text with a blank line behind each. The same tokens are scored as without, but
    for a first one that merges otherwise; `normalise` holds for the shots too. max_length counts the row without them, and the
    model must have positions for both. A row that is itself shown is unscored, is_a_shot. `view: unconditional` shows neither
    prompt nor shots. The path is relative to the current directory; what the scores depend on is what the file holds.
    Cost: one forward pass of the model over every token.
    Source: perplexity of arXiv:2402.11192; rank, entropy and variance as in Fast-DetectGPT (arXiv:2310.05130).
    """

    version: ClassVar[int] = 1
    outputs: ClassVar[Mapping[str, OutputType]] = {
        "tokens": "int64",
        "nll": "float64",
        "entropy": "float64",
        "log_rank": "float64",
        "var_logp": "float64",
        "content_tokens": "int64",
        "content_nll": "float64",
        "content_entropy": "float64",
        "content_log_rank": "float64",
        "content_var_logp": "float64",
        "truncated": "bool",
        "border_merged": "bool",
    }

    view: Literal["conditional", "unconditional"] = Field(
        default="conditional", description="The completion given its prompt, or without it."
    )

    def why_last_turn_only(self) -> str | None:
        """Several turns have no view without a prompt."""
        return NO_UNCONDITIONAL if self.view == "unconditional" else None

    def score_batch(self, examples: Sequence[Example]) -> list[Scores | Unscored]:
        """One forward pass over all examples."""
        return self.run(self.viewed(examples))

    def viewed(self, examples: Sequence[Example]) -> "list[Rendered | Unrenderable]":
        """The rows as token ids, with their prompts or without."""
        renderer = self.renderer()
        tokenizer, rows = renderer.tokenizer, self.rendered(examples, renderer)
        if self.view == "unconditional":
            rows = [self._without_prompt(row, tokenizer.bos_token_id, tokenizer.eos_token_id) for row in rows]
        return rows

    @staticmethod
    def _without_prompt(row: "Rendered | Unrenderable", bos: int | None, eos: int) -> "Rendered | Unrenderable":
        from curate.likelihood import Rendered, Unrenderable

        if isinstance(row, Unrenderable):
            return row
        (turn,) = row.turns
        ids = [eos if bos is None else bos, *row.input_ids[slice(*turn.content)]]
        return Rendered.whole(ids, 1, truncated=row.truncated)


_PASSES: "OrderedDict[tuple[object, ...], list[TokenScores | Unrenderable]]" = OrderedDict()
"""By everything that decides about the last digit: model, budget, threads and all rows of the call, since they share batches."""


def forget_passes() -> None:
    """Run the next pass whatever was made before: for measurements."""
    _PASSES.clear()


def _digest(rows: "Sequence[Rendered | Unrenderable]") -> bytes:
    """A hash of rows, by which equal ones are known without being held."""
    from curate.likelihood import Unrenderable

    found = xxhash.xxh3_128()
    for row in rows:
        if isinstance(row, Unrenderable):
            found.update(repr(row).encode())
            continue
        found.update(repr((len(row.input_ids), row.turns, row.border_merged, row.truncated)).encode())
        found.update(array("q", row.input_ids))
    return found.digest()


@functools.cache
def _tell_once(text: str) -> None:
    # `frozen` is called for every shard; a line for each would bury what it says.
    progress.note(text)


def mean_of(sums: Scores, total: str, count: str) -> float:
    """A sum's mean over its count."""
    value, number = sums[total], sums[count]
    assert isinstance(value, float)
    assert isinstance(number, int)
    assert number > 0
    return value / number


def finite_exp(exponent: float) -> float | None:
    """exp, or None where it overflows: never inf."""
    try:
        return math.exp(exponent)
    except OverflowError:
        return None
