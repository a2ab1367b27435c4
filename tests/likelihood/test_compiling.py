"""Compiled layers give what the others give; where they cannot be compiled, the run says so before it begins."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from curate.errors import UsageError
from curate.filters.likelihood import Likelihood
from curate.likelihood import Engine, LanguageModel, ModelSpec, Rendered, TokenSums, attention, compiling
from curate.likelihood.packing import pack

SIZES: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 200, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip


def rows() -> list[Rendered]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for number in range(24):
        prompt = [5 + number // 4] * (3 + number // 4)
        found.append(Rendered.whole([*prompt, *torch.randint(1, 300, (1 + number,), generator=generator).tolist()], len(prompt)))
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch itself, while it compiles
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "gpt2", "gpt_neox", "phi3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_compiled_layers_agree_with_the_others(kind: str, dtype: str) -> None:
    engines = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES), dtype=getattr(torch, dtype)).eval()
        engines.append(Engine(LanguageModel(model, None, ModelSpec(kind, dtype=dtype)), compiled=compiled))  # type: ignore[arg-type]
    plain, compiled_engine = engines
    assert compiled_engine.why_padded is None
    expected = plain.score(rows(), batch_tokens=80)
    found = compiled_engine.score(rows(), batch_tokens=80)
    for one, other in zip(expected, found, strict=True):
        assert isinstance(one, TokenSums)
        assert isinstance(other, TokenSums)
        tolerance = 1e-5 if dtype == "float32" else 3e-2
        assert other.nll / other.tokens == pytest.approx(one.nll / one.tokens, abs=tolerance)
    assert compiled_engine.score(rows(), batch_tokens=80) == found


@pytest.mark.slow
@pytest.mark.parametrize("window", [None, 5, 150])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_attention_in_cpp_is_that_of_python(window: int | None, softcap: float | None) -> None:
    compiling._define_native()
    generator = torch.Generator().manual_seed(2)
    prompts = [torch.randint(1, 300, (length,), generator=generator).tolist() for length in (3, 180)]
    responses = [[4, 5], [9] * 40 + [1] * 9, [9] * 40 + [2] * 333, [9] * 20 + [3, 3]]
    rows = [Rendered.whole([7] * 20 + prompt + response, 20 + len(prompt)) for prompt in prompts for response in responses]
    packed = pack(rows, range(len(rows)))
    assert {len(segment.context) for segment in packed.segments} == set(range(5))
    query, key, value = (torch.randn(1, heads, len(packed.ids), 16, generator=generator) for heads in (6, 2, 2))
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SIZES))
    with torch.inference_mode(), attention.laid_out(model, packed, tell=compiling.lay_out):
        options: dict[str, Any] = {"sliding_window": window, "softcap": softcap, "scaling": 0.3}
        expected, _ = attention.segment_attention(None, query, key, value, None, **options)
        found, _ = compiling._opaque_attention(None, query, key, value, None, **options)
    assert torch.allclose(found, expected, atol=1e-5)


def test_no_compiler_is_told_before_anything_is_planned(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder

    def none() -> str:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    with pytest.raises(UsageError, match=r"--compile needs a C\+\+ compiler \(no compiler\); install g\+\+"):
        Likelihood(model=str(tiny_model_dir), compile=True).freeze()


def test_a_compiler_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "segments.cpp"
    source.write_text("#error this compiler is broken\n")
    monkeypatch.setattr(compiling, "SOURCE", source)
    monkeypatch.setattr(compiling, "_OPERATORS", {})
    with pytest.raises(UsageError, match=r"(?s)--compile: attention could not be compiled.*leave the option out"):
        compiling.compile_layers(torch.nn.Module(), "cpu")


def test_a_plan_says_whether_layers_are_compiled_and_a_resumed_run_keeps_to_it(tiny_model_dir: Path) -> None:
    likelihood = Likelihood(model=str(tiny_model_dir))
    settings = likelihood.freeze()
    assert settings["compiled"] is False
    assert likelihood.frozen(settings | {"compiled": True}).compile is True
    assert Likelihood(model=str(tiny_model_dir), compile=True).frozen(settings).compile is False
    assert "compile" not in likelihood.fingerprint()["parameters"]
