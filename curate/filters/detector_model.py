"""The `detector_model` filter: any sequence classifier that tells human from machine text."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from curate.errors import ModelError, near_miss
from curate.examples import Example
from curate.filters.base import Filter, OutputType, Scores, Unscored, register
from curate.filters.learned_detector import probability
from curate.likelihood import default_device, model_identity
from curate.likelihood.classifiers import class_logits
from curate.likelihood.model import check_device

_MOST_TOKENS = 512
_MACHINE = {
    "fake",
    "machine",
    "ai",
    "ai-generated",
    "generated",
    "chatgpt",
    "gpt",
    "llm",
    "machine-generated",
    "ai_generated",
    "bot",
}
"""What published detectors call the class of machine text, in lower case."""


@register("detector_model")
class DetectorModel(Filter):
    """How machine-like the completion is to a published classifier. Higher is more machine-like.

    Outputs:
        log_odds: log-odds of the machine label against all others together.
        p_machine: the same as a probability, in [0, 1].
        truncated: the completion is longer than `max_tokens`, and its beginning was read.

    White space is collapsed first: layout tells who formatted a text, not who wrote it. The prompt is not shown.
    Unscored: `too_short` (fewer than `fewest_words` words).

    Known failures: detectors call text of other domains, languages and generators than they were trained on as they please: seven
    public ones flag 61 % of TOEFL essays (arXiv:2304.02819), and one rewrite hides a text. Never cut on one without its figures
    on labelled rows of your own: `curate calibrate`.
    Cost: one pass of the classifier per row, in batches of 32 of like length.
    Source: any model of AutoModelForSequenceClassification, such as roberta-base-openai-detector; safetensors only.
    """

    version: ClassVar[int] = 1
    described_by_identity: ClassVar = ("classifier", "revision")
    outputs: ClassVar[dict[str, OutputType]] = {"log_odds": "float64", "p_machine": "float64", "truncated": "bool"}

    classifier: str = Field(description="A folder as save_pretrained writes it, or a Hub id.")
    revision: str | None = Field(default=None, description="Branch, tag or commit of a Hub model.")
    label: str | None = Field(default=None, description="The label that means machine-written; default: where one is called so.")
    max_tokens: int = Field(default=_MOST_TOKENS, ge=8, description="Tokens that are read of a completion.")
    fewest_words: int = Field(default=50, ge=1, description="Words below which a text tells too little.")
    device: str | None = Field(default=None, exclude=True, description="cpu, cuda, cuda:1 ...; default: cuda where there is one.")

    def identity(self) -> dict[str, Any]:
        """Weights and tokenizer. Raises ModelError where they cannot be used."""
        return {"classifier": model_identity(self.classifier, self.revision)}

    def freeze(self) -> dict[str, Any]:
        """Device and versions."""
        import torch
        import transformers

        device = self.device or default_device()
        check_device(device)
        return {"device": device, "torch": torch.__version__, "transformers": transformers.__version__}

    def score_batch(self, examples: Sequence[Example]) -> list[Scores | Unscored]:
        """One pass over all completions."""
        texts = [" ".join(example.completion.split()) for example in examples]
        rows = [row for row, text in enumerate(texts) if len(text.split()) >= self.fewest_words]
        results: list[Scores | Unscored] = [Unscored("too_short")] * len(examples)
        if rows:
            loaded = _load(self.classifier, self.revision, self.device or default_device(), str(self.identity()))
            column = machine_label(loaded.labels, self.label, where=self.classifier)
            for row, scores in zip(rows, loaded.score([texts[row] for row in rows], column, self.max_tokens), strict=True):
                results[row] = scores
        return results


def machine_label(labels: Sequence[str], asked: str | None, *, where: str) -> int:
    """The number of the label that means machine-written. Raises ModelError where it cannot be told."""
    if asked is not None:
        if asked not in labels:
            raise ModelError(f"{where}: has no label {asked!r}; {near_miss(asked, labels, listing='it has')}")
        return labels.index(asked)
    found = [number for number, name in enumerate(labels) if name.lower() in _MACHINE]
    if len(found) != 1:
        raise ModelError(f"{where}: which of its labels means machine-written? Say `label:`; it has {', '.join(labels)}")
    return found[0]


@dataclass(frozen=True)
class _Classifier:
    model: Any
    tokenizer: Any
    labels: tuple[str, ...]
    device: str

    def score(self, texts: Sequence[str], machine: int, max_tokens: int) -> list[dict[str, float | bool]]:
        """Log-odds of the label `machine` for every text, in order."""
        positions = getattr(self.model.config, "max_position_embeddings", None) or max_tokens
        # RoBERTa's positions begin at 2, so that it has two fewer than its config says.
        room = min(max_tokens, positions - 2 if positions > _MOST_TOKENS else positions)
        results: list[dict[str, float | bool]] = []
        for logits, truncated in class_logits(self.model, self.tokenizer, texts, max_tokens=room, device=self.device):
            others = logits[:machine] + logits[machine + 1 :]
            most = max(others)
            log_odds = logits[machine] - most - math.log(math.fsum(math.exp(value - most) for value in others))
            results.append({"log_odds": log_odds, "p_machine": probability(log_odds), "truncated": truncated})
        return results


@functools.lru_cache(maxsize=1)
def _load(classifier: str, revision: str | None, device: str, identity: str) -> _Classifier:
    """A classifier, loaded once per process and again when its files change."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    check_device(device)
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            classifier, revision=revision, use_safetensors=True, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(classifier, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        line = (str(error).strip().splitlines() or ["no message"])[0][:200]
        raise ModelError(f"{classifier}: cannot be loaded as a sequence classifier ({line})") from error
    labels = tuple(str(model.config.id2label[number]) for number in range(model.config.num_labels))
    if len(labels) < 2:
        raise ModelError(f"{classifier}: has one output; a classifier with a label per class is needed")
    return _Classifier(model.eval().to(device), tokenizer, labels, device)
