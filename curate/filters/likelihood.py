"""The forward pass as an annotation of its own, so that other filters derive their scores from it."""

import functools
import math
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import xxhash
from pydantic import Field

from curate import progress
from curate.errors import ModelError, UsageError
from curate.examples import Example
from curate.filters.base import BackOff, OutputType, Scores, Unscored, register
from curate.filters.model_settings import ModelSettings
from curate.likelihood import Rendered, TokenScores, model_identity
from curate.likelihood.model import ATTENTION, check_device, check_quantize, device_name

if TYPE_CHECKING:
    from curate.likelihood import Engine, Unrenderable

MOST_PASSES = 4
"""Forward passes whose results are held: filters of one run ask for the same rows one after the other, two views of them at
most. A pass over a shard of 512 rows of 1,000 tokens takes some two megabytes."""
NO_UNCONDITIONAL = "has no unconditional view: what stands before a later turn holds the earlier ones"


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
