"""The forward pass as an annotation of its own, so that other filters derive their scores from it."""

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field

from curate import progress
from curate.errors import ModelError, UsageError
from curate.examples import Example
from curate.filters.base import BackOff, Filter, OutputType, Scores, Unscored, register
from curate.filters.normalisation import RULES, WHAT, normalised, read_names
from curate.likelihood import ModelSpec, TokenSums, default_device, model_identity
from curate.likelihood.model import ATTENTION, Dtype, check_device, default_dtype, maximal_length

if TYPE_CHECKING:
    from curate.likelihood import Engine, Rendered, Renderer, Unrenderable

TRL_MAX_LENGTH = 1024
"""SFTConfig's default: rows are scored on what a trainer left alone would train on."""
Normalisers = Annotated[tuple[str, ...], BeforeValidator(read_names)]


class ModelSettings(Filter):
    """Which model, and what of a row it sees. Base of all filters that ask the target model."""

    described_by_identity: ClassVar = ("model", "revision", "dtype", "max_length", "chat_template", "normalise")

    model: str = Field(
        description="A folder as save_pretrained writes it, or a Hub id; in a recipe `target` is the run's --model."
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit of a Hub model.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="Number type of the model's body; auto: bfloat16 on CUDA, float32 elsewhere."
    )
    max_length: int | None = Field(
        default=None,
        ge=2,
        description="Tokens per row, as in SFTConfig; default 1024, or fewer if the model has fewer positions.",
    )
    chat_template: Path | None = Field(default=None, description="A Jinja file that replaces the tokenizer's own template.")
    normalise: Normalisers = Field(default=(), description=WHAT)
    device: str | None = Field(default=None, exclude=True, description="cpu, cuda, cuda:1 ...; default: cuda where there is one.")
    batch_tokens: int | None = Field(default=None, exclude=True, ge=1, description="Tokens per batch.")

    @property
    def spec(self) -> ModelSpec:
        """What the loader needs, with every default resolved. Raises UsageError for a device that is not there."""
        if self.device is not None:  # the default is checked in `freeze`: it costs the import of torch
            check_device(self.device)
        device = self.device or default_device()
        dtype: Dtype = default_dtype(device) if self.dtype == "auto" else self.dtype
        return ModelSpec(self.model, self.revision, dtype, device, self._template())

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
        return {
            "model": model_identity(spec.model, spec.revision),
            "dtype": spec.dtype,
            "max_length": self.resolved_max_length(),
            "chat_template": template or "the tokenizer's own",
        } | ({"normalise": list(self.normalise), "normalise_rules": RULES} if self.normalise else {})

    def freeze(self) -> dict[str, Any]:
        """Whether rows are rendered as conversations: kept rows are written in the layout in which they were scored."""
        return {"conversational": self.renderer().is_chat}

    def renderer(self) -> "Renderer":
        """The renderer of this filter's tokenizer, without loading the model."""
        from curate.likelihood import Renderer

        return Renderer.load(self.spec, max_length=self.resolved_max_length())

    def rendered(self, examples: Sequence[Example], renderer: "Renderer") -> "list[Rendered | Unrenderable]":
        """The rows as token ids, normalised first."""
        from curate.likelihood import Unrenderable

        seen = [normalised(example, self.normalise) for example in examples]
        rows = renderer.render(seen)
        return [
            Unrenderable("empty_after_normalising") if example.completion.strip() and not shown.completion.strip() else row
            for example, shown, row in zip(examples, seen, rows, strict=True)
        ]

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

        spec = self.spec
        check_device(spec.device)
        return super().freeze() | {
            "model": model_identity(spec.model, spec.revision),
            "device": spec.device,
            "device_name": torch.cuda.get_device_name(spec.device) if spec.device.startswith("cuda") else "cpu",
            # Packs gain nothing from size on a CPU, where memory is what they cost; a GPU has to be filled.
            "batch_tokens": self.batch_tokens or (32768 if spec.device.startswith("cuda") else 4096),
            "dtype": spec.dtype,
            # By what the model can do: rows in packs, or padded with the first of the others that its architecture has.
            "attention": ", else ".join(("packs", *ATTENTION)),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    def frozen(self, settings: Mapping[str, Any], *, backoff: int = 0) -> Self:
        """Bound to the plan's device, threads and budget.

        Raises UsageError when the plan's device is not here, ModelError when the model is no longer the one planned for.
        """
        import torch

        try:
            check_device(settings["device"])
        except UsageError as error:
            raise UsageError(f"{error}; the plan of this folder was frozen with it, so choose another with --out") from error
        self._tell_what_is_ignored(settings)
        if settings.get("model", now := model_identity(self.model, self.revision)) != now:
            raise ModelError(f"{self.model}: changed while it was scoring; let training end, then run the same command again")
        if torch.get_num_threads() != settings["threads"]:
            torch.set_num_threads(settings["threads"])  # sums are split by thread: another count, another last digit
        budget = max(1, settings["batch_tokens"] >> backoff)
        return self.model_copy(update={"device": settings["device"], "batch_tokens": budget})

    def _tell_what_is_ignored(self, settings: Mapping[str, Any]) -> None:
        """Say which options of this run a frozen plan overrides."""
        asked = {"device": self.device, "batch_tokens": self.batch_tokens}
        differing = {name: value for name, value in asked.items() if value is not None and value != settings[name]}
        if differing:
            frozen = ", ".join(f"{name} {settings[name]}" for name in differing)
            ignored = ", ".join(f"{name} {value}" for name, value in differing.items())
            _tell_once(f"the plan of this folder was frozen with {frozen}; {ignored} is ignored")

    def engine(self) -> "Engine":
        """The loaded model; loaded once per process, and again when its folder's files change."""
        from curate.likelihood import load_engine

        return load_engine(self.spec)

    def run(self, rows: "Sequence[Rendered | Unrenderable]") -> list[Scores | Unscored]:
        """One forward pass over all rows, in batches planned from them and the token budget."""
        from curate.likelihood import OutOfMemory

        budget = self.batch_tokens or self.freeze()["batch_tokens"]
        engine = self.engine()
        try:
            with progress.forward_pass():
                results = engine.score(rows, batch_tokens=budget, on_tokens=lambda tokens: progress.tick(tokens=tokens))
        except OutOfMemory as error:
            raise BackOff from error
        return [result.as_scores() if isinstance(result, TokenSums) else Unscored(result.reason) for result in results]


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
    nonfinite; out_of_memory (the row alone does not fit); empty_after_normalising.
    With `view: unconditional` the content is scored without its prompt, after the BOS token (EOS where there is none): the
    same tokens, so that both views can be compared.
    With `normalise` the completion is scored without the named markup, here and in every filter that takes the option. Kept
    rows stay as they were read: what is trained still holds the markup, so such a score is no longer of exactly what is trained.
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

    def score_batch(self, examples: Sequence[Example]) -> list[Scores | Unscored]:
        """One forward pass over all examples."""
        from curate.likelihood import Renderer

        tokenizer = self.engine().loaded.tokenizer
        rows = self.rendered(examples, Renderer(tokenizer, max_length=self.resolved_max_length()))
        if self.view == "unconditional":
            rows = [self._without_prompt(row, tokenizer.bos_token_id, tokenizer.eos_token_id) for row in rows]
        return self.run(rows)

    @staticmethod
    def _without_prompt(row: "Rendered | Unrenderable", bos: int | None, eos: int) -> "Rendered | Unrenderable":
        from curate.likelihood import Rendered, Unrenderable

        if isinstance(row, Unrenderable):
            return row
        (turn,) = row.turns
        ids = [eos if bos is None else bos, *row.input_ids[slice(*turn.content)]]
        return Rendered.whole(ids, 1, truncated=row.truncated)


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
