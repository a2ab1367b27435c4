"""Linear models of texts: they learn what is there, are judged on prompts they have not seen, and come back from disk as they were."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import InputError, ModelError
from curate.learning import FeatureSettings, Fitted, LinearModel, collapse_white_space, fit_linear, surface_features

SMALL = FeatureSettings(hashed=2**10)
WORDS = [f"word{number}" for number in range(40)]


def rows(count: int = 120) -> tuple[list[str], list[float], list[str]]:
    """Texts of which every second one says `moreover`; two per prompt."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=20)) + (" moreover" if place % 2 else "") for place in range(count)]
    return texts, [float(place % 2) for place in range(count)], [f"p{place // 2}" for place in range(count)]


def fitted() -> Fitted:
    return fit_linear("logistic", *rows(), settings=SMALL, strength=10.0)


def test_it_finds_the_word_that_tells() -> None:
    _, targets, _ = rows()
    found = fitted()
    assert ((found.held_out > 0) == (np.array(targets) > 0)).all()
    assert found.model.decide(["word1 word2 moreover"])[0] > found.model.decide(["word1 word2 word3"])[0]


def test_what_stands_in_a_prompt_alone_is_not_known_when_it_is_held_out() -> None:
    # Each prompt has its own word and one label: a model that saw the prompt would be right, one that did not cannot know.
    draw = random.Random(1)
    labels = {f"p{number}": float(draw.random() < 0.5) for number in range(60)}
    groups = [prompt for prompt in labels for _ in range(3)]
    texts = [f"{prompt} " + " ".join(draw.choices(WORDS, k=10)) for prompt in groups]
    targets = [labels[prompt] for prompt in groups]
    found = fit_linear("logistic", texts, targets, groups, settings=FeatureSettings(surface=False, hashed=2**14), strength=1000.0)
    right = (found.held_out > 0) == (np.array(targets) > 0)
    assert 0.3 < right.mean() < 0.7
    assert ((found.model.decide(texts) > 0) == (np.array(targets) > 0)).all()


def test_ridge_predicts_a_number() -> None:
    draw = random.Random(2)
    texts = [" ".join(draw.choices(WORDS, k=draw.randrange(5, 60))) for _ in range(150)]
    lengths = [float(np.log(len(text))) for text in texts]
    found = fit_linear("ridge", texts, lengths, [str(n) for n in range(150)], settings=SMALL, strength=1.0)
    assert np.corrcoef(found.held_out, lengths)[0, 1] > 0.95


def test_the_held_out_rows_are_all_rows_and_the_same_each_time() -> None:
    one, other = fitted(), fitted()
    assert np.isfinite(one.held_out).all()
    assert (one.held_out == other.held_out).all()
    assert one.model.digest() == other.model.digest()


def test_one_text_is_decided_as_among_many() -> None:
    model, (texts, _, _) = fitted().model, rows()
    together = model.decide(texts[:8])
    assert [model.decide([text])[0] for text in texts[:8]] == pytest.approx(together, abs=1e-12)
    assert len(model.decide([])) == 0


def test_a_saved_model_comes_back_the_same(tmp_path: Path) -> None:
    model, (texts, _, _) = fitted().model, rows()
    model.save(tmp_path / "m")
    again = LinearModel.load(tmp_path / "m")
    assert again.digest() == model.digest()
    assert (again.decide(texts) == model.decide(texts)).all()
    assert again.facts == model.facts
    assert sorted(path.suffix for path in (tmp_path / "m").iterdir()) == [".json", ".safetensors"]


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    fitted().model.save(tmp_path / "m")
    with pytest.raises(ModelError, match="holds no model that curate has learnt"):
        LinearModel.load(tmp_path)
    path = tmp_path / "m" / "linear_model.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "intercept": 7.0}))
    with pytest.raises(ModelError, match="was changed since it was saved"):
        LinearModel.load(tmp_path / "m")
    path.write_text(json.dumps({**facts, "surface": ["something"]}))
    with pytest.raises(ModelError, match="another version of curate"):
        LinearModel.load(tmp_path / "m")
    (tmp_path / "m" / "linear_model.safetensors").write_bytes(b"\x80\x04K\x01.")
    path.write_text(json.dumps(facts))
    with pytest.raises(ModelError, match="holds no model"):
        LinearModel.load(tmp_path / "m")


def test_too_little_to_learn_from_is_said() -> None:
    texts, _, groups = rows(10)
    with pytest.raises(InputError, match="both classes"):
        fit_linear("logistic", texts, [1.0] * 10, groups, settings=SMALL)
    with pytest.raises(InputError, match="at least two prompts"):
        fit_linear("logistic", texts, [0.0, 1.0] * 5, ["p"] * 10, settings=SMALL)


@given(text=st.text(), prompt=st.text())
@settings(deadline=None)
def test_surface_features_are_finite_for_any_text(text: str, prompt: str) -> None:
    assert np.isfinite(list(surface_features(text, prompt).values())).all()


def test_formatting_is_no_feature() -> None:
    text = "One line. Another line."
    assert collapse_white_space(" a\n\n b\t") == "a b"
    assert surface_features(text.replace(" ", "\n\n")) == surface_features(text)
    model = fitted().model
    assert model.decide(["a b\n\nc"])[0] == model.decide(["a b c"])[0]


def test_known_values_of_surface_features() -> None:
    found = surface_features("The 12 cats, the 7 dogs!", "How many cats and dogs: 12 or 30?")
    assert found["kept_numbers"] == 1 / 2
    assert found["new_numbers"] == 1 / 2
    assert found["copied"] == pytest.approx(2 / 4)
    assert found["types"] == pytest.approx(3 / 4)
    assert found["ends"] == 1.0
    assert found["differs_at_end"] == 1.0
