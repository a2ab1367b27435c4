"""Feed-forward parts run in slices of a batch, where and only where they read every token by itself."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from curate.likelihood import Engine, LanguageModel, ModelSpec, Rendered, layers

SIZES: dict[str, Any] = {
    "vocab_size": 100, "hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0,
}  # fmt: skip


def _model(kind: str, **sizes: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(SIZES | sizes))).eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("kind", "sizes", "sliced"),
    [
        ("llama", {}, ["mlp"]),
        ("gpt_neox", {}, ["mlp"]),
        ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}, ["mlp"]),
        ("gemma2", {"head_dim": 8}, ["mlp"]),
        # Its mixers widen the states, and each token sees those before it.
        ("mamba2", {"num_heads": 8, "head_dim": 8, "state_size": 16, "n_groups": 1, "chunk_size": 16}, []),
        # Experts see few of a batch's tokens already.
        ("mixtral", {"num_local_experts": 2, "num_experts_per_tok": 1}, []),
    ],
)
def test_which_parts_are_sliced(kind: str, sizes: dict[str, Any], sliced: list[str]) -> None:
    body = _model(kind, **sizes).base_model
    stack = layers.decoder_layers(body)
    assert layers.slice_tokens(body, 32) == 2 * len(sliced)
    for layer in stack:
        assert [name for name, part in layer.named_children() if "forward" in vars(part)] == sliced


def test_no_more_tokens_at_a_time_and_the_same_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Rendered.whole([1 + (7 * place + 13 * row) % 99 for place in range(40 + row)], 5) for row in range(6)]
    monkeypatch.setattr(layers, "SLICE", 10_000)
    whole = Engine(LanguageModel(_model("llama"), None, ModelSpec("llama"))).score(rows, batch_tokens=500)
    monkeypatch.setattr(layers, "SLICE", 50)
    model = _model("llama")
    engine = Engine(LanguageModel(model, None, ModelSpec("llama")))
    seen: list[int] = []
    model.model.layers[0].mlp.up_proj.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    found = engine.score(rows, batch_tokens=500)
    assert max(seen) == 50
    assert sum(seen) == sum(len(row.input_ids) - 1 for row in rows)
    for one, other in zip(found, whole, strict=True):
        assert one.nll == pytest.approx(other.nll, rel=1e-6)  # type: ignore[union-attr]


def test_padded_batches_count_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "SLICE", 24)
    model = _model("llama")
    states = torch.randn(4, 30, 32)
    with torch.inference_mode():
        whole = model.model.layers[0].mlp(states)
        layers.slice_tokens(model.model, 32)
        seen: list[torch.Size] = []
        model.model.layers[0].mlp.up_proj.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
        assert torch.allclose(model.model.layers[0].mlp(states), whole, atol=1e-6)
    assert seen == [(4, 6, 32)] * 5
