"""Two models in one sweep give what their stock logits give in float64, packed and padded, whatever their heads do."""

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CHAT_TEMPLATE, save_tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from curate.errors import ModelError
from curate.likelihood import (
    Engine,
    JointSums,
    LanguageModel,
    ModelSpec,
    OutOfMemory,
    Pair,
    Rendered,
    Turn,
    Unrenderable,
    check_vocabularies,
    engine,
    load_engine,
    load_pair,
)
from curate.likelihood.joint import joint_statistics

SMALL: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 64, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip
MAMBA = {
    "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 0, "num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1,
    "expand": 2, "chunk_size": 8,
}  # fmt: skip
GEMMA = {"final_logit_softcapping": 3.0, "sliding_window": 8}


def engine_of(kind: str, vocabulary: int, seed: int, **settings: Any) -> Engine:
    """A random model whose predictions are far from uniform."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **{"vocab_size": vocabulary, **(MAMBA if kind == "mamba2" else SMALL | settings)})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.ndim == 2 else 1.0)
    return Engine(LanguageModel(model, None, ModelSpec(kind)))


def expected(pair: Pair, row: Rendered) -> tuple[float, float]:
    """Sums over the content, from whole logits in float64: as in the published code, in that order of the roles."""
    ids = torch.tensor([list(row.input_ids)])
    with torch.inference_mode():
        performer, observer = (
            one.loaded.model(ids, use_cache=False).logits[0, :, : pair.vocabulary].double()
            for one in (pair.performer, pair.observer)
        )
    places = [place for turn in row.turns for place in range(*turn.content)]
    before = torch.tensor(places) - 1
    nll = torch.nn.functional.cross_entropy(performer[before], ids[0, places], reduction="sum")
    surprise = torch.nn.functional.cross_entropy(performer[before], torch.softmax(observer[before], dim=-1), reduction="sum")
    return float(nll), float(surprise)


def some_rows(vocabulary: int) -> list[Rendered]:
    """Rows that share a prefix, prompts of their own, several responses to a prompt, closing tokens, two turns."""
    generator = torch.Generator().manual_seed(5)

    def ids(count: int) -> list[int]:
        return torch.randint(1, vocabulary, (count,), generator=generator).tolist()

    prefix, prompt = ids(20), ids(7)
    rows = [Rendered.whole([*prefix, *ids(12)], 25, (25, 30)), Rendered.whole([*prefix, *ids(9)], 22, (23, 29))]
    rows += [Rendered.whole([*prompt, *ids(count)], 7) for count in (5, 1, 30)]
    return [*rows, Rendered(ids(24), (Turn(4, 9, (4, 8)), Turn(15, 24, (15, 22))))]


@pytest.mark.parametrize(
    ("performer", "observer"),
    [
        (("llama", 300, {}), ("llama", 300, {})),
        (("gemma2", 300, GEMMA), ("llama", 300, {})),
        (("llama", 300, {}), ("gemma2", 300, GEMMA)),
        (("llama", 320, {}), ("gemma2", 300, GEMMA)),  # weights padded to different sizes
        (("qwen2", 300, {}), ("llama", 384, {})),
        (("mamba2", 300, {}), ("llama", 300, {})),  # one that cannot be packed: both run padded
        (("llama", 300, {}), ("mamba2", 310, {})),
    ],
    ids=lambda one: f"{one[0]}-{one[1]}",
)
@pytest.mark.parametrize("budget", [40, 4096])
def test_a_pair_agrees_with_the_stock_logits_in_float64(performer: Any, observer: Any, budget: int) -> None:
    pair = Pair(*(engine_of(kind, size, seed, **given) for seed, (kind, size, given) in enumerate((performer, observer))))
    assert pair.vocabulary == 300
    assert (pair.performer.why_padded is None) == (performer[0] != "mamba2")
    rows = some_rows(300)
    for row, found in zip(rows, pair.score(rows, batch_tokens=budget), strict=True):
        assert isinstance(found, JointSums)
        nll, cross_entropy = expected(pair, row)
        assert found.content_tokens == sum(stop - start for start, stop in (turn.content for turn in row.turns))
        assert found.content_nll == pytest.approx(nll, rel=2e-5)
        assert found.content_cross_entropy == pytest.approx(cross_entropy, rel=2e-5)


def test_a_pair_where_only_one_packs_keeps_its_rows_apart() -> None:
    """A pack groups rows by prompt, a padded batch does not: states have to be brought into one order."""
    pair = Pair(engine_of("llama", 300, 0), engine_of("mamba2", 300, 1))
    assert pair.performer.why_padded is None
    assert pair.observer.why_padded is not None
    one, other, third = [5, 6, 7], [9, 8], [5, 6, 7]
    rows = [Rendered.whole([*prompt, number, 3, 4], len(prompt)) for number, prompt in enumerate((one, other, third), 10)]
    order = pair.performer.states(rows)[2]
    assert list(order) == [0, 2, 1]
    for row, found in zip(rows, pair.score(rows, batch_tokens=4096), strict=True):
        assert isinstance(found, JointSums)
        assert (found.content_nll, found.content_cross_entropy) == pytest.approx(expected(pair, row), rel=2e-5)


def sweep(performer: torch.Tensor, observer: torch.Tensor, targets: list[int], width: int) -> torch.Tensor:
    return joint_statistics(
        lambda low, high: performer[:, low:high].clone(),
        lambda low, high: observer[:, low:high].clone(),
        torch.tensor(targets),
        vocabulary=performer.shape[1],
        width=width,
    )


@pytest.mark.parametrize("width", [1, 3, 7, 50, 64])
def test_tiles_of_any_width_give_the_same_sums(width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    performer, observer = (torch.randn(9, 50, generator=generator) * 20 for _ in range(2))
    targets = torch.randint(0, 50, (9,), generator=generator)
    logp, q = torch.log_softmax(performer.double(), dim=1), torch.softmax(observer.double(), dim=1)
    found = sweep(performer, observer, targets.tolist(), width)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found[:, 0], -logp.gather(1, targets[:, None])[:, 0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[:, 1], -(q * logp).sum(dim=1), rtol=1e-6, atol=1e-6)


def test_two_tokens_by_hand() -> None:
    performer, observer = torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.5, 0.5]]).log()
    ((nll, cross_entropy),) = sweep(performer, observer, [1], 2).tolist()
    assert nll == pytest.approx(-math.log(0.2), rel=1e-6)
    assert cross_entropy == pytest.approx(-(math.log(0.8) + math.log(0.2)) / 2, rel=1e-6)


def test_a_token_that_both_rule_out_adds_nothing_and_one_that_only_the_performer_does_is_infinite() -> None:
    never = -math.inf
    performer = torch.tensor([[never, 1.0, 2.0], [1.0, never, 2.0]])
    observer = torch.tensor([[never, 0.5, 0.5], [never, 0.5, 0.5]])
    for width in (1, 3):
        found = sweep(performer, observer, [1, 2], width)
        rest = torch.log_softmax(torch.tensor([1.0, 2.0], dtype=torch.float64), dim=0)
        assert float(found[0, 1]) == pytest.approx(-float(rest.mean()), rel=1e-6)
        assert float(found[1, 1]) == math.inf


def test_a_row_whose_sums_are_not_finite_is_unscored() -> None:
    pair = Pair(engine_of("llama", 300, 0), engine_of("llama", 300, 1))
    with torch.no_grad():
        pair.observer.loaded.model.get_output_embeddings().weight.fill_(math.nan)
    assert pair.score(some_rows(300)[:1], batch_tokens=99) == [Unrenderable("nonfinite")]


def test_logits_of_all_tokens_and_all_ids_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(engine_of("llama", 3000, 0), engine_of("llama", 3000, 1))
    shapes: list[tuple[int, int]] = []

    def watched(tile: Any, *given: Any) -> Any:
        logits = tile(*given)
        shapes.append(tuple(logits.shape))
        return logits

    for one in (pair.performer.head, pair.observer.head):
        monkeypatch.setattr(one, "_tile", functools.partial(watched, one._tile))
    rows = [Rendered.whole([1 + (place * 7 + number) % 2999 for place in range(60)], 4) for number in range(20)]
    assert len(pair.score(rows, batch_tokens=4096)) == 20
    assert max(tokens for tokens, _ in shapes) == 512
    assert max(tokens * width for tokens, width in shapes) <= 512 * 1024


def test_what_does_not_fit_is_told_as_by_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(engine_of("llama", 300, 0), engine_of("llama", 300, 1))
    rows: list[Rendered | Unrenderable] = [*some_rows(300)[:2], Unrenderable("too_long")]

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(pair.observer, "states", full)
    with pytest.raises(OutOfMemory):
        pair.score(rows, batch_tokens=4096)
    assert pair.score(rows, batch_tokens=1) == [Unrenderable("out_of_memory")] * 2 + [Unrenderable("too_long")]


def test_other_tokenizers_are_refused_with_what_differs(tmp_path: Path, tiny_model_dir: Path) -> None:
    import json

    other = save_tiny_model(tmp_path / "other", chat_template=CHAT_TEMPLATE, seed=1)
    same = ModelSpec(str(other))
    check_vocabularies(ModelSpec(str(tiny_model_dir)), same)
    told = json.loads((other / "tokenizer.json").read_text())
    for token in told["added_tokens"]:
        token["content"] = token["content"].replace("<|pad|>", "<|fill|>")
    told["model"]["vocab"]["<|fill|>"] = told["model"]["vocab"].pop("<|pad|>")
    (other / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(ModelError, match=r"differ in \d tokens, such as '<\|fill\|>' \(absent in .*, 3 in .*two models of one"):
        load_pair(ModelSpec(str(tiny_model_dir)), ModelSpec(str(other)))


def test_a_pair_and_the_model_of_another_filter_stay_loaded_together(tmp_path: Path) -> None:
    specs = [ModelSpec(str(save_tiny_model(tmp_path / str(seed), chat_template=None, seed=seed))) for seed in range(3)]
    engine._load_engine.cache_clear()
    for _ in range(3):
        load_engine(specs[0])
        load_pair(*specs[1:])
    assert engine._load_engine.cache_info().misses == 3
