"""The four detectors agree with their definitions, and higher is more machine-like in each."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from curate.examples import Example
from curate.filters import Detectors, Likelihood, Perplexity, Scores, Unscored
from curate.filters.detectors import curvature
from curate.likelihood import ModelSpec, Rendered, Renderer
from curate.likelihood.statistics import token_statistics

LONG = " ".join(["the answer to the question is four and yes or no"] * 6)


def example(completion: str, prompt: str = "What is 2 + 2?") -> Example:
    return Example([{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}])


def sums_of(distributions: list[list[float]], tokens: list[int]) -> Scores:
    """What `likelihood` gives for tokens drawn from these distributions."""
    logits, targets = torch.tensor(distributions, dtype=torch.float64).log().float(), torch.tensor(tokens)
    at_target = logits.gather(1, targets[:, None])
    per_token = token_statistics(
        lambda low, high: logits[:, low:high].clone(), at_target, targets, vocabulary=logits.shape[1], width=logits.shape[1]
    )
    nll, entropy, log_rank, var_logp = per_token.double().sum(dim=0).tolist()
    names = {"tokens": len(tokens), "nll": nll, "entropy": entropy, "log_rank": log_rank, "var_logp": var_logp}
    both = {f"{side}{name}": value for side in ("", "content_") for name, value in names.items()}
    return {**both, "truncated": False, "border_merged": False}


def derived(sums: Scores | Unscored, text: str = LONG, **parameters: Any) -> Scores | Unscored:
    return Detectors(model="any", **parameters).derive(example(text), {"sums": sums})


def scores(sums: Scores) -> Scores:
    found = derived(sums)
    assert isinstance(found, dict)
    return found


def test_a_uniform_model_knows_no_rank_and_no_curvature() -> None:
    found = scores(sums_of([[0.02] * 50] * 7, [0, 9, 3, 4, 5, 6, 49]))
    assert found["log_likelihood"] == pytest.approx(-math.log(50))
    assert found["log_rank"] == 0  # all are first: ties share the best rank
    assert found["lrr"] is None
    assert curvature({"content_nll": 2.0, "content_entropy": 1.0, "content_var_logp": 0.0}) is None


def test_two_tokens_by_hand() -> None:
    # The first token is the likelier one, the second the less likely one, of p = (0.8, 0.2).
    found = scores(sums_of([[0.8, 0.2]] * 2, [0, 1]))
    likely, rare = math.log(0.8), math.log(0.2)
    mu = 0.8 * likely + 0.2 * rare
    variance = 0.8 * likely**2 + 0.2 * rare**2 - mu**2
    assert found["log_likelihood"] == pytest.approx((likely + rare) / 2)
    assert found["log_rank"] == pytest.approx(-math.log(2) / 2)
    assert found["lrr"] == pytest.approx(-(likely + rare) / math.log(2))
    assert found["fast_detect"] == pytest.approx((likely + rare - 2 * mu) / math.sqrt(2 * variance), rel=1e-5)


def test_a_text_of_likeliest_tokens_is_more_machine_like_than_one_of_rare_ones() -> None:
    skewed = [[0.5, 0.3, 0.15, 0.05]] * 10
    machine, human = (
        scores(sums_of(skewed, [0, 0, 1, 0, 0, 0, 1, 0, 0, 0])),
        scores(sums_of(skewed, [0, 2, 3, 1, 0, 2, 3, 1, 2, 0])),
    )
    for output in ("log_likelihood", "log_rank", "lrr", "fast_detect"):
        assert machine[output] > human[output], output  # type: ignore[operator]


def test_what_the_model_itself_would_write_has_curvature_zero() -> None:
    """The expectation is over all tokens: 0.7 and 0.3 of the draws, taken exactly."""
    found = scores(sums_of([[0.7, 0.3]] * 10, [0] * 7 + [1] * 3))
    assert found["fast_detect"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("view", ["conditional", "unconditional"])
def test_the_four_agree_with_brute_force_from_the_logits(tiny_model_dir: Path, view: Any) -> None:
    text = "  One, two,\n\nthree and\tyes or no.  "
    found = Detectors(model=str(tiny_model_dir), view=view, fewest_words=1).score(example(text))
    assert isinstance(found, dict)
    (row,) = Renderer.load(ModelSpec(str(tiny_model_dir)), max_length=512).render([example("One, two, three and yes or no.")])
    assert isinstance(row, Rendered)
    first, end = row.turns[0].content
    eos = Renderer.load(ModelSpec(str(tiny_model_dir)), max_length=512).tokenizer.eos_token_id
    ids, start = (list(row.input_ids), first) if view == "conditional" else ([eos, *row.input_ids[first:end]], 1)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir).double()
    with torch.inference_mode():
        logp = torch.log_softmax(model(torch.tensor([ids])).logits[0], dim=-1)
    total, log_rank, mu, variance = 0.0, 0.0, 0.0, 0.0
    for place in range(start, start + end - first):
        at = logp[place - 1]
        total += float(at[ids[place]])
        log_rank += math.log(1 + int((at > at[ids[place]]).sum()))
        mean = float((at.exp() * at).sum())
        mu += mean
        variance += float((at.exp() * at**2).sum()) - mean**2
    assert found["content_tokens"] == end - first
    assert found["words"] == 7
    assert found["log_likelihood"] == pytest.approx(total / (end - first), abs=1e-5)
    assert found["log_rank"] == pytest.approx(-log_rank / (end - first), abs=1e-4)
    assert found["lrr"] == pytest.approx(-total / log_rank, abs=1e-4)
    assert found["fast_detect"] == pytest.approx((total - mu) / math.sqrt(variance), abs=1e-4)


def test_layout_is_not_seen_unless_asked_for(tiny_model_dir: Path) -> None:
    lines = LONG.replace(" the ", "\n\nthe ")
    assert lines != LONG
    one = Detectors(model=str(tiny_model_dir))
    assert one.score(example(LONG)) == one.score(example(lines))
    seeing = Detectors(model=str(tiny_model_dir), collapse_whitespace=False)
    assert seeing.score(example(LONG)) != seeing.score(example(lines))


def test_short_texts_are_unscored_counting_what_is_scored() -> None:
    sums = sums_of([[0.8, 0.2]], [0])
    words = " ".join(["word"] * 50)
    assert not isinstance(derived(sums, words), Unscored)
    assert derived(sums, words.removesuffix(" word")) == Unscored("too_short")
    assert derived(sums, f"{words.removesuffix(' word')} <<1+1=2>>", normalise=["calculator_marks"]) == Unscored("too_short")
    assert derived(sums, "three short words", fewest_words=3)["words"] == 3  # type: ignore[index]


def test_unscored_stays_unscored_with_its_reason() -> None:
    assert derived(Unscored("too_long")) == Unscored("too_long")


def test_the_pass_is_shared_with_filters_that_score_the_same_text(tiny_model_dir: Path) -> None:
    model = str(tiny_model_dir)
    raw, collapsed = Likelihood(model=model), Likelihood(model=model, normalise=("whitespace",))
    assert raw.fingerprint() != collapsed.fingerprint()
    assert Detectors(model=model).depends() == {"sums": collapsed}
    assert Detectors(model=model, collapse_whitespace=False).depends() == {"sums": raw}
    assert Perplexity(model=model, normalise=("whitespace",)).depends() == {"conditional": collapsed}
