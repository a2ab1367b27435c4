"""Batches that run at once give what they give one after the other, and leave everything as it was."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from curate.likelihood import Engine, LanguageModel, ModelSpec, Rendered
from curate.likelihood.running import Pace, Statistics

SIZES: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 200, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Another number of threads may sum in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def engine_of(kind: str, dtype: str = "float32") -> Engine:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES), dtype=getattr(torch, dtype)).eval()
    return Engine(LanguageModel(model, None, ModelSpec(kind, dtype=dtype)))  # type: ignore[arg-type]


def rows(count: int = 60) -> list[Rendered]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for number in range(count):
        prompt = [5 + number // 4 % 280] * (3 + number // 4 % 9)
        response = torch.randint(1, 300, (1 + number % 40,), generator=generator).tolist()
        found.append(Rendered.whole([*prompt, *response], len(prompt)))
    return found


@pytest.mark.parametrize("kind", ["llama", "gemma2", "mamba2"])  # plain head, one with code of its own, padded batches
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_batches_at_once_are_the_batches_one_by_one(kind: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "mamba2":
        monkeypatch.setitem(SIZES, "num_heads", 8)
        monkeypatch.setitem(SIZES, "state_size", 8)
        monkeypatch.setitem(SIZES, "n_groups", 1)
    engine = engine_of(kind, dtype)
    config = engine.loaded.model.config
    before = config._attn_implementation
    monkeypatch.setattr(engine, "pace", lambda tokens: Pace())
    alone = engine.score(rows(), batch_tokens=90)
    monkeypatch.setattr(engine, "pace", lambda tokens: Pace(workers=4))
    for _ in range(3):
        read: list[int] = []
        assert engine.score(rows(), batch_tokens=90, on_tokens=read.append) == alone
        assert sum(read) == sum(len(row.input_ids) for row in rows())
    assert config._attn_implementation == before
    assert torch.get_num_threads() == 1


def test_several_batches_do_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of("llama")
    monkeypatch.setattr(engine, "pace", lambda tokens: Pace(workers=3))
    meeting = threading.Barrier(3, timeout=30)  # breaks, and fails the test, unless three come

    def statistics(batch: Any) -> Statistics:
        meeting.wait()
        return Engine._statistics(engine, batch)

    monkeypatch.setattr(engine, "_statistics", statistics)
    assert len(engine.score(rows(3), batch_tokens=1)) == 3


def test_what_fails_in_one_batch_ends_all_and_gives_the_threads_back(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    engine = engine_of("llama")
    monkeypatch.setattr(engine, "pace", lambda tokens: Pace(workers=2))
    seen = []

    def statistics(batch: Any) -> Statistics:
        seen.append(torch.get_num_threads())
        raise ZeroDivisionError

    monkeypatch.setattr(engine, "_statistics", statistics)
    with pytest.raises(ZeroDivisionError):
        engine.score(rows(), batch_tokens=20)
    assert set(seen) == {1}
    assert len(seen) < 10
    assert torch.get_num_threads() == 2


def test_memory_bounds_how_many_batches_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    engine = engine_of("llama")
    assert engine.pace(2048) == Pace(workers=64)
    per_token = 4 * (6 * 32 + 3 * 48)
    assert engine.pace((1 << 30) // per_token // 3) == Pace(workers=3)
    assert engine.pace(1 << 30) == Pace(workers=1)


@pytest.mark.parametrize(
    ("free", "per_token", "expected"), [(80 << 30, 1 << 20, 32768), (80 << 30, 1, 131072), (1 << 30, 1 << 20, 2048)]
)
def test_a_gpu_is_filled_by_half_of_its_free_memory(
    free: int, per_token: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of("llama")
    assert engine.budget() == 4096
    monkeypatch.setattr(engine, "_bytes_per_token", 30_000)
    assert engine.budget() == 2048
    read: list[int] = []
    monkeypatch.setattr(engine, "_entrance", torch.device("cuda"))
    monkeypatch.setattr(engine, "token_statistics", lambda rows: read.append(sum(len(row.input_ids) for row in rows)))
    for name, value in {
        "memory_allocated": 5000,
        "memory_reserved": 5000,
        "reset_peak_memory_stats": None,
        "max_memory_allocated": 5000 + 8192 * per_token,
        "mem_get_info": (free, 80 << 30),
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    assert engine.budget() == expected
    assert read == [256, 8192]
