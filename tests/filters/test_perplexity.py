"""perplexity and entropy are means of the stored sums; the unconditional view scores the same tokens without the prompt."""

import math
from pathlib import Path

import pytest

from curate.examples import Example
from curate.filters import Entropy, Likelihood, Perplexity, Scores, Unscored
from curate.reference import model_path


def example(prompt: str, completion: str) -> Example:
    return Example([{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}])


SUMS: Scores = {
    "tokens": 5, "nll": 10.0, "entropy": 4.0, "log_rank": 1.0, "var_logp": 1.0, "content_tokens": 4, "content_nll": 6.0,
    "content_entropy": 2.0, "content_log_rank": 1.0, "content_var_logp": 1.0, "truncated": False, "border_merged": False,
}  # fmt: skip


def test_perplexity_is_exp_of_the_mean_over_trained_tokens() -> None:
    scores = Perplexity(model="any").derive(example("q", "a"), {"conditional": SUMS})
    assert isinstance(scores, dict)
    assert scores["nll"] == 2.0
    assert scores["content_nll"] == 1.5
    assert scores["perplexity"] == pytest.approx(math.exp(2.0))
    assert scores["ifd"] is None


def test_perplexity_that_would_overflow_is_null_and_nll_stays() -> None:
    scores = Perplexity(model="any").derive(example("q", "a"), {"conditional": {**SUMS, "nll": 5 * 800.0}})
    assert isinstance(scores, dict)
    assert scores["perplexity"] is None
    assert scores["nll"] == 800.0


def test_ifd_is_the_ratio_of_perplexities() -> None:
    alone = {**SUMS, "content_nll": 8.0}
    given = {"conditional": SUMS, "unconditional": alone}
    scores = Perplexity(model="any", unconditional=True).derive(example("q", "a"), given)
    assert isinstance(scores, dict)
    assert scores["ifd"] == pytest.approx(math.exp(6 / 4) / math.exp(8 / 4))


def test_entropy_is_the_mean_over_the_content() -> None:
    scores = Entropy(model="any").derive(example("q", "a"), {"conditional": SUMS})
    assert scores == {"entropy": 0.5, "content_tokens": 4, "truncated": False}


def test_unscored_stays_unscored_with_its_reason() -> None:
    reason = Unscored("too_long")
    assert Perplexity(model="any").derive(example("q", "a"), {"conditional": reason}) == reason


def test_unconditional_view_does_not_depend_on_the_prompt() -> None:
    alone = Likelihood(model=str(model_path()), view="unconditional")
    one, other = (alone.score(example(prompt, "The answer is 42.")) for prompt in ("What is 6 x 7?", "Say something."))
    assert one == other
    assert isinstance(one, dict)
    both = Likelihood(model=str(model_path())).score(example("What is 6 x 7?", "The answer is 42."))
    assert isinstance(both, dict)
    assert one["content_tokens"] == both["content_tokens"]


def test_moved_model_has_the_same_fingerprint_and_other_weights_another(tmp_path: Path) -> None:
    import shutil

    moved = tmp_path / "moved"
    shutil.copytree(model_path(), moved)
    there = Perplexity(model=str(moved)).fingerprint()
    assert there == Perplexity(model=str(model_path())).fingerprint()
    shutil.copytree(model_path(), tmp_path / "changed")
    weights = tmp_path / "changed" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert Perplexity(model=str(tmp_path / "changed")).fingerprint() != there


@pytest.mark.parametrize("change", [{"dtype": "bfloat16"}, {"max_length": 64}, {"unconditional": True}])
def test_whatever_changes_a_score_changes_the_fingerprint(change: dict[str, object]) -> None:
    plain = Perplexity(model=str(model_path()))
    assert Perplexity.model_validate({"model": plain.model, **change}).fingerprint() != plain.fingerprint()


def test_chat_template_file_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    plain = Perplexity(model=str(model_path())).fingerprint()
    one = Perplexity(model=str(model_path()), chat_template=template).fingerprint()
    template.write_text("{% for m in messages %}{{ m['content'] }};{% endfor %}")
    assert len({str(plain), str(one), str(Perplexity(model=str(model_path()), chat_template=template).fingerprint())}) == 3
