"""Toxicity: Detoxify's own numbers from a checkpoint of its layout, loaded safely and never fetched unasked."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from curate.errors import ModelError
from curate.examples import Example
from curate.filters import Scores, Toxicity, Unscored

TEXTS = ["abc def", "a longer text of many words " * 5, "x", "dad " * 900, "bad cab"]


def examples(*texts: str) -> list[Example]:
    return [Example(messages=[{"role": "assistant", "content": text}], row=row) for row, text in enumerate(texts)]


def test_the_scores_are_detoxifys(toxicity_checkpoint: Path) -> None:
    from detoxify.detoxify import get_model_and_tokenizer

    found = torch.load(toxicity_checkpoint, weights_only=True)
    folder = str(toxicity_checkpoint.parent)
    arch = {**found["config"]["arch"]["args"], "model_type": folder}
    model, tokenizer = get_model_and_tokenizer(**arch, state_dict=found["state_dict"], huggingface_config_path=folder)
    for text, result in zip(TEXTS, Toxicity(checkpoint=toxicity_checkpoint).score_batch(examples(*TEXTS)), strict=True):
        with torch.no_grad():
            inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=512)
            expected = torch.sigmoid(model.eval()(**inputs)[0])[0].tolist()
        assert isinstance(result, dict)
        assert [result["toxicity"], result["severe_toxicity"], result["insult"]] == pytest.approx(expected, abs=1e-6)
        assert result["sexual_explicit"] is None
        assert result["truncated"] is (text == TEXTS[3])


def test_one_text_is_scored_as_among_many(toxicity_checkpoint: Path) -> None:
    one = Toxicity(checkpoint=toxicity_checkpoint)
    together = one.score_batch(examples(*TEXTS))
    for place, each in enumerate(examples(*TEXTS)):
        alone: Scores | Unscored = one.score(each)
        assert isinstance(alone, dict)
        assert alone == pytest.approx(together[place], abs=1e-6)


@pytest.mark.parametrize("length", [511, 512, 513])
def test_truncated_means_that_something_was_cut_off(toxicity_checkpoint: Path, length: int) -> None:
    (result,) = Toxicity(checkpoint=toxicity_checkpoint).score_batch(examples("a " * (length - 2)))
    assert isinstance(result, dict)
    assert result["truncated"] is (length > 512)


def test_the_fingerprint_is_the_files_and_not_their_place(toxicity_checkpoint: Path, tmp_path: Path) -> None:
    for path in toxicity_checkpoint.parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    moved = Toxicity(checkpoint=tmp_path / toxicity_checkpoint.name)
    assert moved.fingerprint() == Toxicity(checkpoint=toxicity_checkpoint).fingerprint()
    other: dict[str, Any] = torch.load(toxicity_checkpoint, weights_only=True)
    other["state_dict"]["classifier.bias"] += 1
    torch.save(other, tmp_path / toxicity_checkpoint.name)
    assert moved.fingerprint() != Toxicity(checkpoint=toxicity_checkpoint).fingerprint()


def test_without_a_checkpoint_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        ModelError, match=r"'original' is not in torch's cache; say `download: true` .* or give `checkpoint: FILE`"
    ):
        Toxicity().fingerprint()


def test_a_checkpoint_without_a_config_says_what_is_missing(toxicity_checkpoint: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes(toxicity_checkpoint.read_bytes())
    with pytest.raises(ModelError, match=r"config and tokenizer of bert-base-uncased are not in the Hub's cache"):
        Toxicity(checkpoint=alone).fingerprint()
    with pytest.raises(ModelError, match=r"no config\.json in"):
        Toxicity(checkpoint=alone, config=tmp_path).fingerprint()


class _Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize(
    "writer", [lambda content, file: torch.save(content, file), lambda content, file: pickle.dump(content, file)]
)
def test_a_hostile_checkpoint_runs_nothing(toxicity_checkpoint: Path, tmp_path: Path, writer: Any) -> None:
    path, mark = tmp_path / "evil.ckpt", tmp_path / "ran"
    with path.open("wb") as file:
        writer({"state_dict": {}, "config": _Hostile(mark)}, file)
    with pytest.raises(ModelError, match="no Detoxify checkpoint"):
        Toxicity(checkpoint=path, config=toxicity_checkpoint.parent).score_batch(examples("a"))
    assert not mark.exists()


def test_half_a_surrogate_pair_does_not_raise(toxicity_checkpoint: Path) -> None:
    assert isinstance(Toxicity(checkpoint=toxicity_checkpoint).score(examples("abc \ud800 def")[0]), dict)


def test_an_empty_completion_is_unscored(toxicity_checkpoint: Path) -> None:
    results = Toxicity(checkpoint=toxicity_checkpoint).score_batch(examples("", "a", " \n"))
    assert [isinstance(result, Unscored) for result in results] == [True, False, True]
