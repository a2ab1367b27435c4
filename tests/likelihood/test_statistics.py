"""Known answers of the pure parts: statistics, batches, spans."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curate.likelihood import plan_batches
from curate.likelihood.rendering import common_prefix, find_content
from curate.likelihood.statistics import LOWEST, Sweep, sweep_tile, sweep_tile_at_once, token_statistics


def statistics_of(logits: torch.Tensor, targets: torch.Tensor, width: int = 7) -> list[float]:
    """Of the first token, from tiles of the given width."""
    at_target = logits.gather(1, targets[:, None])
    found = token_statistics(
        lambda low, high: logits[:, low:high].clamp(min=LOWEST), at_target, targets, vocabulary=logits.shape[1], width=width
    )
    return [float(value) for value in found[0]]


def test_uniform_model_has_the_entropy_and_nll_of_its_vocabulary() -> None:
    nll, entropy, log_rank, variance = statistics_of(torch.zeros(1, 50), torch.tensor([7]))
    assert nll == pytest.approx(math.log(50))
    assert entropy == pytest.approx(math.log(50))
    assert log_rank == 0.0  # nothing is likelier
    assert variance == pytest.approx(0.0, abs=1e-10)


def test_two_token_distribution_by_hand() -> None:
    p = 0.8
    logits = torch.tensor([[math.log(p), math.log(1 - p)]])
    nll, entropy, log_rank, variance = statistics_of(logits, torch.tensor([1]))
    mean = p * math.log(p) + (1 - p) * math.log(1 - p)
    assert nll == pytest.approx(-math.log(1 - p))
    assert entropy == pytest.approx(-mean)
    assert log_rank == pytest.approx(math.log(2))
    assert variance == pytest.approx(p * math.log(p) ** 2 + (1 - p) * math.log(1 - p) ** 2 - mean**2)


def test_impossible_tokens_leave_the_statistics_finite() -> None:
    logits = torch.tensor([[0.0, 0.0, -math.inf]])
    assert statistics_of(logits, torch.tensor([0])) == pytest.approx([math.log(2), math.log(2), 0.0, 0.0], abs=1e-7)


@pytest.mark.parametrize("width", [1, 3, 64, 257, 1000])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 300.0])
@pytest.mark.parametrize("sweep", [sweep_tile, sweep_tile_at_once])
def test_tiles_of_any_width_give_what_the_whole_gives(width: int, scale: float, sweep: Sweep) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 257, generator=generator) * scale
    logits[::3, 5:200] = -math.inf
    logits[:, :4] += torch.linspace(-90, 90, 4) * (scale > 1)
    targets = torch.randint(200, 257, (40,), generator=generator)
    at_target = logits.gather(1, targets[:, None])
    tiles = [logits[:, low : low + width].clamp(min=LOWEST) for low in range(0, 257, width)]
    found = token_statistics(lambda low, high: tiles[low // width], at_target, targets, vocabulary=257, width=width, sweep=sweep)
    logp = logits.double().log_softmax(dim=1)
    p = logp.exp()
    logp = logp.masked_fill(p == 0, 0.0)
    mean = (p * logp).sum(dim=1)
    variance = (p * (logp - mean[:, None]) ** 2).sum(dim=1)
    rank = (logits > at_target).sum(dim=1) + 1
    expected = torch.stack(
        [logits.double().logsumexp(dim=1) - at_target[:, 0].double(), -mean, rank.double().log(), variance], dim=1
    )
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


@given(st.lists(st.integers(1, 500), max_size=60), st.integers(1, 2000))
def test_every_row_stands_in_one_batch_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = plan_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)))
def test_common_prefix_is_the_longest(one: list[int], other: list[int]) -> None:
    length = common_prefix(one, other)
    assert one[:length] == other[:length]
    assert length == min(len(one), len(other)) or one[length] != other[length]


@pytest.mark.parametrize(
    ("completion", "prompt", "full", "place"),
    [
        ("4", "2+2=4? ", "2+2=4? 4</s>", 7),
        (" 4\n", "q: ", "q: 4</s>", 3),
        ("<think>a", "p<think>", "p<think>a", 1),
        ("abc", "p ", "p ABC", None),
        ("a", "a ", "a b", None),
    ],
)
def test_content_is_found_after_the_border(completion: str, prompt: str, full: str, place: int | None) -> None:
    assert find_content(completion, prompt, full) == place
