"""Packs and tiles of the head give what the stock model gives, for any decoder: windows, scaling, soft-capping, biases."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from curate.likelihood import Engine, LanguageModel, ModelSpec, Rendered, TokenSums

SMALL: dict[str, Any] = {
    "vocab_size": 120, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 8},
    "gemma2": {"final_logit_softcapping": 3.0, "sliding_window": 8},
    "gemma3_text": {"sliding_window": 8},
    "phi3": {},
    "olmo2": {},
    "granite": {"logits_scaling": 4.0},
    "cohere": {"logit_scale": 0.2},
    "gpt_neox": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packs_agree_with_the_stock_model(kind: str, dtype: str) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(SMALL | KINDS[kind]))
    stock = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in stock.parameters():  # random weights of this size predict nearly nothing: make them opinionated
            parameter.mul_(3.0 if parameter.ndim > 1 else 1.0)
    reference = {name: value.clone() for name, value in stock.state_dict().items()}
    scored = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
    scored.load_state_dict(reference)
    # Only the model and its spec are used by the engine; no text is involved.
    engine = Engine(LanguageModel(scored, None, ModelSpec(kind, dtype=dtype)))  # type: ignore[arg-type]
    assert engine.why_padded is None
    prefix = torch.randint(1, 120, (20,)).tolist()
    rows = []
    for length in (9, 30, 21):  # prompts of their own, and prompts that begin alike and have several responses
        rows.append(Rendered.whole(torch.randint(1, 120, (length,)).tolist(), 4, (4, length - 1)))
    for number, length in enumerate((30, 24, 50, 41, 33)):
        ids = [*prefix, 7 + number // 3, *torch.randint(1, 120, (length - 21,)).tolist()]
        rows.append(Rendered.whole(ids, 21, (21, length)))
    for row, result in zip(rows, engine.score(rows, batch_tokens=200), strict=True):
        assert isinstance(result, TokenSums)
        with torch.inference_mode():
            logits = stock(torch.tensor([list(row.input_ids)]), use_cache=False).logits[0]
        first = row.start
        told = torch.tensor(row.input_ids[first:])
        expected = torch.nn.functional.cross_entropy(logits[first - 1 : -1].double(), told, reduction="sum")
        assert result.nll / result.tokens == pytest.approx(
            float(expected) / result.tokens, abs=1e-5 if dtype == "float32" else 0.1
        )
