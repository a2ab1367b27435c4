"""Packs hold every row once, share what rows share, and let no row see another; models that cannot be packed are found out."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from curate.likelihood import Engine, LanguageModel, ModelSpec, Rendered, TokenSums
from curate.likelihood.attention import laid_out
from curate.likelihood.packing import LEAST_SHARED, pack, plan_packs


def row(prompt: list[int], response: list[int]) -> Rendered:
    ids = [*prompt, *response]
    return Rendered.whole(ids, len(prompt))


TOKENS = st.lists(st.integers(1, 3), min_size=1, max_size=6)
PROMPTS = st.sampled_from([[1], [2, 2], [1, 2], [9] * 20 + [1], [9] * 20 + [2], [9] * 21, [9] * 21 + [7] * 20])
ROWS = st.lists(st.tuples(PROMPTS, TOKENS | TOKENS.map(lambda end: [7] * 18 + end)), max_size=12)


@given(ROWS, st.integers(1, 80))
def test_every_row_stands_in_one_pack_within_the_budget(pairs: list[Any], budget: int) -> None:
    rows = [row(*pair) for pair in pairs]
    packs = plan_packs(rows, budget)
    assert sorted(index for chosen in packs for index in chosen) == list(range(len(rows)))
    for chosen in packs:
        assert len(chosen) == 1 or len(pack(rows, chosen).ids) <= budget
    assert packs == plan_packs(rows, budget)


@given(ROWS)
def test_a_pack_predicts_every_token_from_its_own_row(pairs: list[Any]) -> None:
    rows = [row(*pair) for pair in pairs]
    found = pack(rows, range(len(rows)))
    assert [place for one in found.segments for place in range(one.start, one.stop)] == list(range(len(found.ids)))
    before: dict[int, list[int]] = {}
    for segment in found.segments:
        seen = [token for start, stop in segment.context for token in found.ids[start:stop]]
        for place in range(segment.start, segment.stop):
            before[place] = [*seen, *found.ids[segment.start : place + 1]]
            assert found.positions[place] == len(before[place]) - 1
    read = iter(zip(found.predictors, found.targets, strict=True))
    for index in found.rows:
        one = rows[index]
        for place in range(one.start, len(one.input_ids)):
            predictor, target = next(read)
            assert before[predictor] == list(one.input_ids[:place])
            assert target == one.input_ids[place]
    assert next(read, None) is None


def test_what_rows_share_is_laid_out_once() -> None:
    prefix = list(range(100, 100 + LEAST_SHARED))
    rows = [row([*prefix, 1], [5, 6, 7]), row([*prefix, 2], [5, 6]), row([*prefix, 1], [8]), row([*prefix, 1, 5], [6, 9])]
    found = pack(rows, range(4))
    assert list(found.ids) == [*prefix, 1, 5, 6, 2, 5]  # the last token of a row predicts nothing
    assert list(found.positions) == [*range(LEAST_SHARED + 3), LEAST_SHARED, LEAST_SHARED + 1]
    assert [one.context for one in found.segments] == [(), ((0, LEAST_SHARED + 1),), ((0, LEAST_SHARED),)]
    assert list(found.rows) == [2, 0, 3, 1]
    first = LEAST_SHARED  # predicts what follows the second prompt token that is not shared by all
    assert list(found.predictors) == [first, first, first + 1, first + 2, first + 1, first + 2, first + 3, first + 4]


def test_turns_of_one_conversation_and_what_all_rows_begin_with_are_counted_once() -> None:
    system, talk = [8] * 30, list(range(100, 160))
    rows = [row([*system, *talk[:stop]], [stop, 5]) for stop in (10, 25, 40, 60)]
    others = [row([*system, first], [5] * 9) for first in (1, 2, 3)]
    assert plan_packs([*rows, *others], 90 + 4 + 3 * 9) == [[0, 1, 2, 3, 4, 5, 6]]


def engine_of(kind: str, **settings: Any) -> Engine:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 0, **settings}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes), dtype=torch.float32).eval()
    return Engine(LanguageModel(model, None, ModelSpec(kind)))


SMALL = {"intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 600}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("mamba2", {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "expand": 2, "chunk_size": 8}),
        ("bloom", {"n_head": 4, "n_layer": 2}),  # biases by distance
        ("gpt_oss", {**SMALL, "num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8}),  # sinks
    ],
)
def test_models_that_cannot_be_packed_run_padded_and_say_why(kind: str, settings: dict[str, Any], capsys: Any) -> None:
    from curate import progress

    with progress.shown():
        engine = engine_of(kind, **settings)
    assert engine.why_padded is not None
    assert "scored in padded batches" in capsys.readouterr().err
    rows = [row([1, 2, 3], [4, 5, 6, 7]), row([1, 2, 3], [9, 8]), row([5], [4] * 9)]
    together = engine.score(rows, batch_tokens=100)
    for one, found in zip(rows, together, strict=True):
        (alone,) = engine.score([one], batch_tokens=100)
        assert isinstance(found, TokenSums)
        assert isinstance(alone, TokenSums)
        assert found.nll == pytest.approx(alone.nll, abs=1e-4)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000))
def test_long_rows_in_blocks_agree_with_the_stock_model(seed: int) -> None:
    engine = engine_of("mistral", **SMALL, sliding_window=300)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 120, (590,), generator=generator).tolist()
    rows = [row(ids[:300], ids[300:]), row(ids[:300], ids[400:410]), row(ids[:5], ids[5:])]
    for one, found in zip(rows, engine.score(rows, batch_tokens=2000), strict=True):
        with torch.inference_mode():
            logits = engine.loaded.model(torch.tensor([list(one.input_ids)]), use_cache=False).logits[0].double()
        told = torch.tensor(one.input_ids[one.start :])
        expected = torch.nn.functional.cross_entropy(logits[one.start - 1 : -1], told, reduction="sum")
        assert isinstance(found, TokenSums)
        assert found.nll == pytest.approx(float(expected), rel=1e-5)


def test_a_model_is_its_own_again_after_a_pack() -> None:
    engine = engine_of("llama", **SMALL)
    model, before = engine.loaded.model, engine.loaded.model.config._attn_implementation
    rows = [row([1, 2], [3, 4, 5])]
    engine.score(rows, batch_tokens=10)
    assert model.config._attn_implementation == before
    with pytest.raises(ZeroDivisionError), laid_out(model, pack(rows, [0])):
        raise ZeroDivisionError
    assert model.config._attn_implementation == before


def test_responses_to_one_prompt_cost_one_prompt() -> None:
    engine = engine_of("llama", **SMALL)
    seen: list[int] = []
    engine.loaded.model.base_model.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    rows = [row(list(range(1, 101)), [number, 5]) for number in range(8)]
    engine.score(rows, batch_tokens=4096)
    assert seen == [100 + 8]
