"""Models in fewer bits and over several devices score as whole ones do; a batch that is launched ahead changes nothing."""

import copy
import gzip
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CHAT_TEMPLATE, save_tiny_model
from transformers import AutoConfig, AutoModelForCausalLM
from workshop import curate, some_rows, write_rows

from curate.errors import ModelError, UsageError
from curate.examples import Example
from curate.filters import Likelihood, model_settings
from curate.filters import likelihood as module
from curate.likelihood import (
    Engine,
    LanguageModel,
    ModelSpec,
    OutOfMemory,
    Rendered,
    Renderer,
    TokenSums,
    Unrenderable,
    load_engine,
)
from curate.likelihood import model as loading
from curate.likelihood.head import Head
from curate.likelihood.model import device_name, load_model
from curate.likelihood.running import Pace
from curate.reference import model_path, sample_path

needs_bitsandbytes = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
SMALL: dict[str, Any] = {
    "vocab_size": 120, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip


def rows() -> list[Rendered]:
    generator = torch.Generator().manual_seed(0)
    return [Rendered.whole(torch.randint(1, 120, (length,), generator=generator).tolist(), 4) for length in (9, 30, 21)]


def engine_of(model: Any, **spec: Any) -> Engine:
    return Engine(LanguageModel(model, None, ModelSpec("model", **spec)))


def random_model(kind: str, dtype: str = "float32", **more: Any) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(SMALL | more)), dtype=getattr(torch, dtype)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.ndim > 1 else 1.0)
    return model


# Several devices


CPU_FIRST = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu"}
DISK_LAST = {"model.layers.1": "disk", "model.norm": "disk", "lm_head": "disk"}
SPREADS = [
    {**CPU_FIRST, **DISK_LAST},
    {**dict.fromkeys(CPU_FIRST, "disk"), **dict.fromkeys(DISK_LAST, "cpu")},
    dict.fromkeys({**CPU_FIRST, **DISK_LAST}, "cpu"),
]


@pytest.mark.parametrize(
    ("kind", "more"),
    [("llama", {}), ("gemma2", {"final_logit_softcapping": 3.0, "sliding_window": 8})],
    ids=["plain", "soft-capped"],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("spread", SPREADS, ids=["head-on-disk", "embedding-on-disk", "hooks-alone"])
def test_a_model_that_is_spread_scores_as_one_that_is_not(
    kind: str, more: dict[str, Any], dtype: str, spread: dict[str, str], tmp_path: Path
) -> None:
    from accelerate import dispatch_model

    # What lies on the disk stands for all that is not where it runs: without a GPU nothing else can be.
    model = random_model(kind, dtype, tie_word_embeddings=False, **more)
    expected = engine_of(copy.deepcopy(model), dtype=dtype).score(rows(), batch_tokens=200)
    dispatch_model(model, spread, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
    before = {name: part.__dict__.get("forward") for name, part in model.named_modules()}
    assert before["lm_head"] is not None
    engine = engine_of(model, dtype=dtype)
    assert engine.why_padded is None
    assert engine.score(rows(), batch_tokens=200) == expected
    assert {name: part.__dict__.get("forward") for name, part in model.named_modules()} == before


def test_a_model_without_hooks_keeps_its_own_methods() -> None:
    model = random_model("gemma2", final_logit_softcapping=3.0)
    engine_of(model).score(rows(), batch_tokens=200)
    changed = [name for name, part in model.named_modules() if "forward" in vars(part)]
    assert changed == [f"model.layers.{layer}.mlp" for layer in range(2)]  # sliced, for good


def test_a_model_that_spills_onto_the_disk_is_refused(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_placement", lambda spec: {"device_map": SPREADS[0]})
    with pytest.raises(ModelError, match=r"3 of its parts would lie on the disk .*--quantize 4bit"):
        load_model(ModelSpec(str(tiny_model_dir), device="auto"))


def test_the_device_map_is_told_in_words() -> None:
    model = random_model("llama")
    model.hf_device_map = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 1, "lm_head": 1}
    assert engine_of(model).device_map == "0: model.embed_tokens to model.layers.0 (2); 1: model.layers.1 to lm_head (2)"


def test_auto_without_a_gpu_is_the_cpu(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_settings, "default_device", lambda: "cpu")
    told: list[str] = []
    monkeypatch.setattr(module, "_tell_once", told.append)
    one = Likelihood(model=str(tiny_model_dir), device="auto")
    plan = one.freeze()
    assert (plan["device"], plan["device_name"], plan["dtype"], plan["batch_tokens"]) == ("cpu", "cpu", "float32", 4096)
    assert plan == Likelihood(model=str(tiny_model_dir), device="cpu").freeze()
    assert one.frozen(plan).spec.device == "cpu"
    assert told == []


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs, as far as planning goes; what is loaded lands on the CPU."""
    monkeypatch.setattr(model_settings, "default_device", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
    loading.check_device.cache_clear()


@pytest.fixture
def _forget() -> Any:
    yield
    loading.check_device.cache_clear()


@pytest.mark.usefixtures("_forget", "gpus")
def test_gpus_are_named_and_counted() -> None:
    loading.check_device("auto")
    loading.check_device("cuda:1")
    with pytest.raises(UsageError, match="finds cpu, auto, cuda, cuda:0, cuda:1"):
        loading.check_device("cuda:2")
    assert [device_name(device) for device in ("cpu", "cuda:1", "auto")] == ["cpu", "H100", "2 x H100"]


def test_a_plan_over_all_gpus_says_what_lies_where(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_settings, "default_device", lambda: "cuda")
    for part in (module, model_settings):
        monkeypatch.setattr(part, "check_device", lambda device: None)
    monkeypatch.setattr(module, "device_name", lambda device: f"all of {device}")
    one = Likelihood(model=str(tiny_model_dir), device="auto", dtype="float32")
    plan = one.freeze()
    assert (plan["device"], plan["device_name"], plan["batch_tokens"]) == ("auto", "all of auto", 4096)
    assert plan["device_map"] == "cpu: all to all (1)"  # transformers' own map, for a machine whose torch sees no GPU
    assert Likelihood(model=str(tiny_model_dir), device="auto").spec.dtype == "bfloat16"
    example = Example([{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "four"}])
    assert one.frozen(plan).score(example) == Likelihood(model=str(tiny_model_dir), device="cpu").score(example)


# Fewer bits


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Says whether bitsandbytes is there."""
    find = importlib.util.find_spec

    def say(is_there: bool) -> None:
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *more: (find("json") if is_there else None) if name == "bitsandbytes" else find(name, *more),
        )

    return say


def test_bits_are_part_of_the_fingerprint_where_they_are_fewer(tiny_model_dir: Path) -> None:
    whole, four, eight = (Likelihood(model=str(tiny_model_dir), quantize=bits).fingerprint() for bits in (None, "4bit", "8bit"))
    assert "quantize" not in whole
    assert "quantize" not in whole["parameters"]
    assert four == {**whole, "quantize": "4bit"}
    assert eight == {**whole, "quantize": "8bit"}


def test_without_bitsandbytes_the_plan_is_refused_with_what_to_install(
    tmp_path: Path, tiny_model_dir: Path, pretended: Callable[[bool], None]
) -> None:
    pretended(False)
    with pytest.raises(UsageError, match=r'--quantize 4bit needs bitsandbytes; .* pip install "curate-sft\[4bit\]"'):
        Likelihood(model=str(tiny_model_dir), quantize="4bit").freeze()
    data = write_rows(tmp_path / "d.jsonl", some_rows(4))
    options = ("--model", str(tiny_model_dir), "--quantize", "8bit", "--out", str(tmp_path / "out"))
    done = curate(str(data), "--recipe", "familiarity-top50", *options)
    assert done.code == 2, done.err
    assert "--quantize 8bit needs bitsandbytes" in done.err


def test_weights_that_are_quantised_already_are_refused(
    tmp_path: Path, tiny_model_dir: Path, pretended: Callable[[bool], None]
) -> None:
    pretended(True)
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(UsageError, match="holds quantised weights already"):
        Likelihood(model=str(folder), quantize="4bit").freeze()


def test_a_quantised_output_layer_is_refused() -> None:
    model = random_model("llama")
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ModelError, match="its output layer is quantised"):
        Head(model, model.base_model)


def _real_rows(renderer: Renderer) -> list[Rendered]:
    gsm8k = Path(__file__).parents[2].parent / "shared" / "data" / "familiarity" / "gsm8k" / "train.jsonl.gz"
    text = gzip.decompress(gsm8k.read_bytes()).decode() if gsm8k.is_file() else sample_path().read_text(encoding="utf-8")
    given = [json.loads(line) for line in text.splitlines()[:20]]
    examples = [
        Example([{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]) for row in given
    ]
    return [row for row in renderer.render(examples) if isinstance(row, Rendered)]


@needs_bitsandbytes
@pytest.mark.filterwarnings("default")  # bitsandbytes' own
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("quantize", "mean", "worst"), [("4bit", 6e-2, 0.3), ("8bit", 1e-2, 5e-2)])
def test_fewer_bits_score_about_the_same(quantize: Any, mean: float, worst: float, dtype: Any) -> None:
    whole = ModelSpec(str(model_path()))
    chosen = _real_rows(Renderer.load(whole, max_length=512))
    engine = load_engine(ModelSpec(str(model_path()), dtype=dtype, quantize=quantize))
    assert engine.why_padded is None
    layer = engine.loaded.model.base_model.layers[0].self_attn.q_proj.weight
    assert layer.dtype == {"4bit": torch.uint8, "8bit": torch.int8}[quantize]
    assert engine.loaded.model.get_output_embeddings().weight.dtype == torch.float32
    differences = []
    for one, other in zip(
        engine.score(chosen, batch_tokens=4096), load_engine(whole).score(chosen, batch_tokens=4096), strict=True
    ):
        assert isinstance(one, TokenSums)
        assert isinstance(other, TokenSums)
        differences.append(abs(one.nll / one.tokens - other.nll / other.tokens))
    assert 0 < sum(differences) / len(differences) <= mean
    assert max(differences) <= worst


@needs_bitsandbytes
@pytest.mark.filterwarnings("default")
def test_a_row_in_4_bits_scores_alone_as_in_company() -> None:
    spec = ModelSpec(str(model_path()), quantize="4bit")
    engine, chosen = load_engine(spec), _real_rows(Renderer.load(spec, max_length=512))
    alone, together = (engine.score(chosen, batch_tokens=budget) for budget in (1, 4096))
    for one, other in zip(alone, together, strict=True):
        assert isinstance(one, TokenSums)
        assert isinstance(other, TokenSums)
        assert one.nll / one.tokens == pytest.approx(other.nll / other.tokens, abs=1e-5)


@needs_bitsandbytes
def test_a_plan_in_fewer_bits_names_bitsandbytes(tiny_model_dir: Path) -> None:
    assert "bitsandbytes" in Likelihood(model=str(tiny_model_dir), quantize="4bit").freeze()
    assert "bitsandbytes" not in Likelihood(model=str(tiny_model_dir)).freeze()


# A batch ahead


def test_a_batch_ahead_changes_no_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModelSpec(str(save_tiny_model(tmp_path / "model", chat_template=CHAT_TEMPLATE)))
    chosen = [Rendered.whole([1 + (place * 7 + length) % 250 for place in range(length)], 3) for length in range(5, 45)]
    expected = load_engine(spec).score(chosen, batch_tokens=64)
    engine = Engine(load_engine(spec).loaded)
    monkeypatch.setattr(engine, "pace", lambda tokens: Pace(ahead=1))
    events: list[str] = []
    launch = engine._statistics

    def launched(batch: Any) -> Any:
        events.append("launched")
        return launch(batch)

    monkeypatch.setattr(engine, "_statistics", launched)
    assert engine.score(chosen, batch_tokens=64, on_tokens=lambda tokens: events.append("read")) == expected
    assert events[:4] == ["launched", "launched", "read", "launched"]
    assert events[-2:] == ["read", "read"]
    assert events.count("launched") == events.count("read")


@pytest.mark.parametrize("pace", [Pace(), Pace(ahead=1), Pace(workers=3)])
def test_memory_that_runs_out_is_told_of_the_right_batch(pace: Pace, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(random_model("llama"))
    monkeypatch.setattr(engine, "pace", lambda tokens: pace)
    statistics = engine._statistics

    def failing(batch: Any) -> Any:
        if any(len(row.input_ids) == 21 for row in batch):
            raise torch.OutOfMemoryError
        return statistics(batch)

    whole = engine.score(rows(), batch_tokens=1)
    monkeypatch.setattr(engine, "_statistics", failing)
    found = engine.score(rows(), batch_tokens=1)
    assert found == [*whole[:2], Unrenderable("out_of_memory")]
    with pytest.raises(OutOfMemory):
        engine.score(rows(), batch_tokens=55)
