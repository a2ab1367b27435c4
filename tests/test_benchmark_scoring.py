"""The scoring benchmark works, its ways agree, and its counts are those of the stock model."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

# Eight processes load torch and transformers: half a minute, and minutes where other tests run beside it.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def scoring(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("scoring")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What a quick run writes and prints."""
    path = tmp_path_factory.mktemp("scoring") / "found.json"
    command = [sys.executable, os.fspath(BENCHMARKS / "scoring.py"), "--quick", "--threads", "1", "--json", os.fspath(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(path.read_text()), done.stdout


def test_all_ways_score_the_same_tokens_alike(quick: tuple[dict[str, Any], str]) -> None:
    ways = quick[0]["shapes"]["tiny"]["ways"]
    assert {"curate", "padded batches of 8", "curate, NLL alone"} <= ways.keys()
    for name in ("curate", "padded batches of 8", "curate, NLL alone"):
        assert ways[name]["largest_difference"] < 1e-5, name
        assert ways[name]["total_differs"] < 1e-6, name
        assert ways[name]["row_differs"] < 1e-5, name


def test_a_run_says_where_its_figures_come_from(quick: tuple[dict[str, Any], str]) -> None:
    found, printed = quick
    assert "--quick" in found["command"]
    assert found["machine"]["threads"] == 1
    shape = found["shapes"]["tiny"]
    assert shape["versions"]["torch"] == torch.__version__
    assert found["commit"] in printed
    assert found["command"] in printed
    assert "lm-evaluation-harness is left out" in printed
    assert shape["rows"]["long"]["prompt_tokens"] == pytest.approx(
        4 * shape["rows"]["long"]["mean_response_tokens"] * shape["rows"]["long"]["prompts"], rel=0.15
    )


def test_every_way_has_speed_memory_and_a_share_of_the_limit(quick: tuple[dict[str, Any], str]) -> None:
    shape = quick[0]["shapes"]["tiny"]
    assert all(rate > 0 for rate in shape["gemm"]["gflops"].values())
    for name, row in shape["ways"].items():
        assert row["tokens_per_second"] > 0, name
        assert row["peak_mb"] < 500, name
        assert row["quiet"] in (True, False), name
    assert 0 < shape["ways"]["curate"]["share_of_limit"] < 1
    assert {(one["of"], one["over"]) for one in shape["ratios"]} >= {
        ("curate", "padded batches of 8"),
        ("long prompts: curate", "long prompts: curate, nothing shared"),
    }


def test_shapes_are_those_that_they_are_named_for(scoring: Any) -> None:
    def parameters(name: str) -> float:
        shape = scoring.SHAPES[name]
        return float(shape.body_flops() / 2 + (1 if shape.tied else 2) * shape.vocabulary * shape.hidden)

    assert parameters("S") == pytest.approx(5.9e6, rel=0.01)
    assert parameters("M") == pytest.approx(134.5e6, rel=0.01)
    assert parameters("1B") == pytest.approx(1.236e9, rel=0.01)
    assert parameters("7B") == pytest.approx(6.738e9, rel=0.01)


def test_operations_are_those_of_the_stock_model(scoring: Any) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape, tokens = scoring.SHAPES["tiny"], 7
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
    )
    model = LlamaForCausalLM(config)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(input_ids=torch.arange(tokens)[None], use_cache=False)
    counted = sum(flops for op, flops in counter.get_flop_counts()["Global"].items() if str(op) == "aten.mm")
    assert counted == tokens * (shape.body_flops() + shape.head_flops())


def test_common_beginnings_are_counted_once_and_last_tokens_are_not_read(scoring: Any) -> None:
    def tokenizer(texts: Any) -> Any:
        return {"input_ids": [list(text) for text in texts] if isinstance(texts, list) else list(texts)}

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys.modules["scoring_material"], "EOS", "$")
        counts = scoring.count(tokenizer, {"two": [" abc", " abd", " abcd"], "ten": [" x"]})
    assert counts.response_tokens == [5, 5, 6, 3]
    assert (counts.prompts, counts.rows, counts.prompt_tokens, counts.prompt_tokens_of_rows) == (2, 4, 6, 12)
    assert counts.read == len("two abcd") + len("d") + len("en x")


def test_ratios_are_taken_round_by_round(scoring: Any) -> None:
    found = {"curate": {"speeds": [10.0, 4.0, 9.0]}, "one at a time": {"speeds": [5.0, 1.0, 3.0]}}
    (ratio,) = scoring.ratios(found)
    assert (ratio["low"], ratio["median"], ratio["high"]) == (2.0, 3.0, 4.0)


def test_a_way_that_cannot_run_is_left_out_with_its_reason(scoring: Any, tmp_path: Path) -> None:
    worker = scoring.start(scoring.Way("odd", {"unheard_of": 1}), tmp_path, 1)
    assert scoring.Gate(1.0, 0, 0.0).measure(worker) == {}
    scoring.stop([worker])
    assert "unheard_of" in worker.failure


def test_a_busy_machine_is_told(scoring: Any) -> None:
    assert not scoring.Gate(busy=-1, wait_s=0, watch_s=0.02).wait()
    assert scoring.Gate(busy=10, wait_s=0, watch_s=0.02).wait()


def test_a_worker_does_not_disturb_itself(scoring: Any) -> None:
    load = scoring.Load()
    begin = time.process_time()
    while time.process_time() < begin + 0.2:
        pass
    assert load.share(own=0) > 0
    assert load.share(own=1e9) == 0


def test_without_data_it_says_that_it_was_skipped(
    scoring: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["scoring.py", "--data", str(tmp_path)])
    scoring.main()
    assert capsys.readouterr().out.startswith("skipped: ")
