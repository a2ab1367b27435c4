"""One kernel call over a pack gives what the loop over its segments gives; the kernel is stood in for by its own definition."""

import inspect
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from curate.likelihood import Engine, LanguageModel, ModelSpec, Rendered, TokenSums, varlen
from curate.likelihood.attention import laid_out, segment_attention
from curate.likelihood.packing import pack

CPU = torch.device("cpu")


def varlen_attn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> torch.Tensor:
    """What `torch.nn.attention.varlen.varlen_attn` documents, in float32: windows count from the lower right corner."""
    assert key.shape[1] == query.shape[1] or enable_gqa
    assert max_q == int(cu_seq_q.diff().max())
    assert max_k == int(cu_seq_k.diff().max())
    found = []
    for number in range(len(cu_seq_q) - 1):
        asked = query[cu_seq_q[number] : cu_seq_q[number + 1]].float()
        keys, values = (
            one[cu_seq_k[number] : cu_seq_k[number + 1]].float().repeat_interleave(query.shape[1] // key.shape[1], dim=1)
            for one in (key, value)
        )
        scores = torch.einsum("rhd,chd->hrc", asked, keys) * scale
        distance = (torch.arange(len(asked)) + len(keys) - len(asked))[:, None] - torch.arange(len(keys))
        left, right = window_size
        hidden = (distance > left if left >= 0 else distance.isnan()) | (distance < -right if right >= 0 else distance.isnan())
        weights = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
        found.append(torch.einsum("hrc,chd->rhd", weights, values))
    return torch.cat(found)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Puts the definition in the kernel's place, for every attention; the sequences of each call."""
    calls: list[int] = []

    def counted(*given: Any, **named: Any) -> torch.Tensor:
        calls.append(len(given[3]) - 1)
        return varlen_attn(*given, **named)

    monkeypatch.setattr(varlen, "_kernel", lambda: counted)
    monkeypatch.setattr(varlen, "is_for", lambda query, key, value, softcap: softcap is None)
    return calls


def rows_of(pairs: list[Any]) -> list[Rendered]:
    return [Rendered.whole([*prompt, *response], len(prompt)) for prompt, response in pairs]


TOKENS = st.lists(st.integers(1, 3), min_size=1, max_size=6)
PROMPTS = st.sampled_from([[1], [2, 2], [1, 2], [9] * 20 + [1], [9] * 20 + [2], [9] * 21])


@settings(deadline=None)
@given(st.lists(st.tuples(PROMPTS, TOKENS), min_size=1, max_size=8), st.sampled_from([None, 1, 4, 100]), st.integers(1, 60))
def test_a_call_gives_what_the_segments_give(pairs: list[Any], window: int | None, most_keys: int) -> None:
    rows = rows_of(pairs)
    packed = pack(rows, range(len(rows)))
    generator = torch.Generator().manual_seed(len(packed.ids))
    query, key, value = (
        # Rounded beforehand: what is compared is where each query looks, not what rounding costs.
        torch.randn(1, heads, len(packed.ids), 8, generator=generator).bfloat16().float()
        for heads in (4, 2, 2)
    )
    with laid_out(SimpleNamespace(config=AutoConfig.for_model("llama")), packed):
        expected, _ = segment_attention(None, query, key, value, None, scaling=0.4, sliding_window=window)
    parts = varlen.parts_of(packed, CPU, most_keys=most_keys)
    assert [part.stop for part in parts] == [*(part.start for part in parts[1:]), len(packed.ids)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(varlen, "_kernel", lambda: varlen_attn)
        found = varlen.attend(parts, query, key, value, scale=0.4, window=window)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_definition_is_that_of_torchs_lower_right_bias() -> None:
    from torch.nn.attention.bias import causal_lower_right

    query, key, value = (torch.randn(1, 2, tokens, 8) for tokens in (3, 7, 7))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, causal_lower_right(3, 7), scale=0.5)
    ends = (torch.tensor([0, 3]), torch.tensor([0, 7]))
    asked, keys, values = (one[0].transpose(0, 1) for one in (query, key, value))
    found = varlen_attn(asked, keys, values, *ends, 3, 7, scale=0.5, window_size=(-1, 0))
    torch.testing.assert_close(found.transpose(0, 1)[None], expected)


SMALL: dict[str, Any] = {
    "vocab_size": 120, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip
PAIRS = [
    ([*range(1, 31)], [7, 8, 9, 3]),
    ([*range(1, 31)], [4] * 12),
    ([*range(1, 25), 5], [6, 2]),
    ([*range(1, 21), 40], [3, 3, 3]),
]


@pytest.mark.parametrize(("kind", "more"), [("llama", {}), ("mistral", {"sliding_window": 8}), ("gpt_neox", {}), ("gemma2", {})])
def test_a_model_scores_the_same_through_the_kernel(kind: str, more: dict[str, Any], kernel: list[int]) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(SMALL | more))
    stock = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    model.load_state_dict(stock.state_dict())
    engine = Engine(LanguageModel(model, None, ModelSpec(kind, dtype="bfloat16")))
    assert engine.why_padded is None
    kernel.clear()
    rows = rows_of(PAIRS)
    for row, found in zip(rows, engine.score(rows, batch_tokens=500), strict=True):
        with torch.inference_mode():
            logits = stock(torch.tensor([list(row.input_ids)]), use_cache=False).logits[0, row.start - 1 : -1]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(row.input_ids[row.start :]))
        assert isinstance(found, TokenSums)
        assert found.nll / found.tokens == pytest.approx(float(expected), abs=2e-2)
    # One call per layer, over the four rows behind what they share; soft-capping stays with the loop.
    assert kernel == ([] if kind == "gemma2" else [4, 4])


def test_float32_stays_with_the_loop(kernel: list[int]) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SMALL), dtype=torch.float32).eval()
    engine = Engine(LanguageModel(model, None, ModelSpec("llama")))
    engine.score(rows_of(PAIRS), batch_tokens=500)
    assert kernel == []


@pytest.mark.usefixtures("kernel")
def test_indices_are_made_once_per_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SMALL), dtype=torch.bfloat16).eval()
    engine = Engine(LanguageModel(model, None, ModelSpec("llama", dtype="bfloat16")))
    made = mock.Mock(wraps=varlen.parts_of)
    monkeypatch.setattr(varlen, "parts_of", made)
    engine.score(rows_of(PAIRS), batch_tokens=500)
    assert made.call_count == 1


def test_without_a_gpu_there_is_no_kernel() -> None:
    query = torch.zeros(1, 4, 3, 8)
    assert not varlen.is_for(query, query, query, None)


def test_torchs_kernel_takes_what_it_is_given() -> None:
    kernel = varlen._kernel()
    if kernel is None:
        pytest.skip("this torch has no kernel with windows and shared key heads")
    ours, theirs = (list(inspect.signature(one).parameters.values()) for one in (varlen_attn, kernel))
    assert [one.name for one in theirs[:7]] == [one.name for one in ours[:7]]
    assert {"scale", "window_size", "enable_gqa"} <= {one.name for one in theirs}
