"""The library that multiplies matrices is chosen by what is measured, and another is used only where it is as exact."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from curate.filters.likelihood import Likelihood
from curate.likelihood import products


@pytest.fixture(autouse=True)
def left_as_it_was() -> Iterator[None]:
    before = products.current()
    yield
    products.use(before)
    products.choose.cache_clear()


def measuring(monkeypatch: pytest.MonkeyPatch, default: tuple[float, float], onednn: tuple[float, float]) -> None:
    products.choose.cache_clear()
    monkeypatch.setattr(products, "_measured", lambda *_: default if products.current() == "default" else onednn)


@pytest.mark.parametrize(
    ("default", "onednn", "chosen"),
    [
        ((2.0, 1e-4), (1.0, 1e-4), "onednn"),
        ((2.0, 1e-4), (1.0, 1.9e-4), "onednn"),
        ((2.0, 1e-4), (0.2, 1e-1), "default"),  # rounded to bfloat16
        ((1.1, 1e-4), (1.0, 1e-4), "default"),  # alike
        ((1.0, 1e-4), (2.0, 1e-5), "default"),
    ],
)
def test_the_faster_library_is_taken_where_it_is_as_exact(
    default: tuple[float, float], onednn: tuple[float, float], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring(monkeypatch, default, onednn)
    assert products.choose() == chosen
    assert products.current() == "default"  # choosing changes nothing


def test_what_is_chosen_here_multiplies_exactly() -> None:
    products.use(products.choose())
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(300, 500, generator=generator) for _ in range(2))
    error = (torch.nn.functional.linear(left, right).double() - left.double() @ right.double().T).abs().max()
    assert error < 1e-3  # bfloat16 would be off by more than 0.1


@pytest.mark.skipif("avx512f" not in Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else True,
                    reason="needs a processor whose widest instructions MKL can be kept from")  # fmt: skip
def test_a_slow_mkl_is_passed_over() -> None:
    code = "from curate.likelihood import products; import torch; torch.set_num_threads(1); print(products.choose())"
    environment = os.environ | {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert told.stdout.split() == ["onednn"]


def test_the_plan_holds_the_choice_and_a_resumed_run_keeps_it(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measuring(monkeypatch, (2.0, 1e-4), (1.0, 1e-4))
    likelihood = Likelihood(model=str(tiny_model_dir))
    settings = likelihood.freeze()
    assert settings["products"] == "onednn"
    measuring(monkeypatch, (1.0, 1e-4), (1.0, 1e-4))
    likelihood.frozen(settings)
    assert products.current() == "onednn"
    likelihood.frozen(
        {name: value for name, value in settings.items() if name != "products"}
    )  # planned before there was a choice
    assert products.current() == "default"
