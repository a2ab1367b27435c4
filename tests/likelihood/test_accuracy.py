"""The engine agrees with a float64 reference that scores one row at a time with the stock model."""

import gzip
import json
import math
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from curate.examples import Example
from curate.likelihood import Engine, ModelSpec, Rendered, Renderer, TokenSums, load_engine
from curate.likelihood.model import load_model
from curate.reference import model_path, sample_path

SHARED = Path(__file__).parents[2].parent / "shared"
STORIES = SHARED / "models" / "stories260K"
GSM8K = SHARED / "data" / "familiarity" / "gsm8k" / "train.jsonl.gz"


def _examples(count: int) -> list[Example]:
    """Real rows where they are at hand, else the packaged sample."""
    if GSM8K.is_file():
        with gzip.open(GSM8K, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in islice(lines, 0, count * 37, 37)]
    else:
        with sample_path().open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in islice(lines, count)]
    return [
        Example([{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}], row=place)
        for place, row in enumerate(rows)
    ]


def _reference(model: Any, row: Rendered) -> dict[str, float]:
    """The definitions, written out, in float64, from the stock model's logits."""
    with torch.inference_mode():
        logits = model(torch.tensor([list(row.input_ids)]), use_cache=False).logits[0].double()
    sums = dict.fromkeys(("nll", "entropy", "log_rank", "var_logp", "content_nll"), 0.0)
    for place in range(row.start, len(row.input_ids)):
        logp = torch.log_softmax(logits[place - 1], dim=0)
        token, p = row.input_ids[place], logp.exp()
        mean = float((p * logp).sum())
        sums["nll"] -= float(logp[token])
        sums["entropy"] -= mean
        sums["log_rank"] += math.log(1 + int((logits[place - 1] > logits[place - 1][token]).sum()))
        sums["var_logp"] += float((p * logp**2).sum()) - mean**2
        if row.turns[0].content[0] <= place < row.turns[0].content[1]:
            sums["content_nll"] -= float(logp[token])
    return sums


def _worst(spec: ModelSpec, reference: ModelSpec, count: int, names: tuple[str, ...]) -> dict[str, float]:
    """Largest difference of each per-token mean between the engine and the float64 reference."""
    exact = load_model(reference).model.double()
    rows = Renderer.load(spec, max_length=512).render(_examples(count))
    rendered = [row for row in rows if isinstance(row, Rendered)]
    results = load_engine(spec).score(rendered, batch_tokens=4096)
    worst = dict.fromkeys(names, 0.0)
    for row, result in zip(rendered, results, strict=True):
        assert isinstance(result, TokenSums)
        expected = _reference(exact, row)
        for name in names:
            tokens = result.content_tokens if name.startswith("content") else result.tokens
            worst[name] = max(worst[name], abs(getattr(result, name) - expected[name]) / tokens)
    return worst


needs_stories = pytest.mark.skipif(not STORIES.is_dir(), reason="needs ../shared/models/stories260K")


@pytest.mark.parametrize("folder", [pytest.param(STORIES, marks=needs_stories), model_path()], ids=["stories260K", "packaged"])
def test_float32_means_agree_with_float64_to_1e_5(folder: Path) -> None:
    spec = ModelSpec(str(folder))
    worst = _worst(spec, spec, 24, ("nll", "entropy", "log_rank", "var_logp", "content_nll"))
    assert worst["nll"] <= 1e-5
    assert worst["content_nll"] <= 1e-5
    assert worst["entropy"] <= 1e-5
    assert worst["var_logp"] <= 1e-4
    assert worst["log_rank"] <= 1e-2  # two nearly equal logits may swap places


# stories260K is 64 wide: rounding the inputs of so small products leaves 1e-2, whatever is done with the rest.
@pytest.mark.parametrize(
    ("folder", "bound"), [pytest.param(STORIES, 2e-2, marks=needs_stories), (model_path(), 5e-3)], ids=["stories260K", "packaged"]
)
def test_bfloat16_means_agree_with_float64(folder: Path, bound: float) -> None:
    worst = _worst(ModelSpec(str(folder), dtype="bfloat16"), ModelSpec(str(folder)), 40, ("nll", "content_nll"))
    # The packaged sample's rows are a handful of tokens long: there a single token's rounding is the row's.
    assert max(worst.values()) <= (bound if GSM8K.is_file() else 5e-2)


def test_batch_budget_changes_nothing_beyond_rounding() -> None:
    engine, renderer = _packaged()
    rows = renderer.render(_examples(20))
    alone, together = (engine.score(rows, batch_tokens=budget) for budget in (1, 10_000))
    for a, b in zip(alone, together, strict=True):
        assert isinstance(a, TokenSums)
        assert isinstance(b, TokenSums)
        assert a.nll / a.tokens == pytest.approx(b.nll / b.tokens, abs=1e-5)


def test_equal_plans_give_equal_bits() -> None:
    engine, renderer = _packaged()
    rows = renderer.render(_examples(20))
    assert engine.score(rows, batch_tokens=512) == engine.score(rows, batch_tokens=512)


def _packaged() -> tuple[Engine, Renderer]:
    spec = ModelSpec(str(model_path()))
    return load_engine(spec), Renderer.load(spec, max_length=512)
