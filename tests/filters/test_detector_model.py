"""A classifier's log-odds, of the right label, whatever the batch."""

from pathlib import Path

import pytest
import torch

from curate.errors import ModelError
from curate.examples import Example
from curate.filters import DetectorModel, Unscored
from curate.filters.detector_model import machine_label

TEXTS = ["abc " * 60, "a longer text of many words " * 12, "too short", "dad " * 900, "bad\n\ncab " * 40]


def examples(*texts: str) -> list[Example]:
    return [Example(messages=[{"role": "assistant", "content": text}], row=row) for row, text in enumerate(texts)]


def test_the_scores_are_the_classifiers(detector_folder: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(detector_folder)
    tokenizer = AutoTokenizer.from_pretrained(detector_folder)
    results = DetectorModel(classifier=str(detector_folder)).score_batch(examples(*TEXTS))
    for text, result in zip(TEXTS, results, strict=True):
        if text == "too short":
            assert result == Unscored("too_short")
            continue
        with torch.no_grad():
            inputs = tokenizer(" ".join(text.split()), return_tensors="pt", truncation=True, max_length=512)
            chances = torch.softmax(model(**inputs).logits.double()[0], dim=0)
        assert isinstance(result, dict)
        assert result["p_machine"] == pytest.approx(float(chances[1]), abs=1e-6)
        assert result["log_odds"] == pytest.approx(float(torch.log(chances[1] / (1 - chances[1]))), abs=1e-5)
        assert result["truncated"] is (text == TEXTS[3])


def test_half_a_surrogate_pair_does_not_raise(detector_folder: Path) -> None:
    assert isinstance(DetectorModel(classifier=str(detector_folder)).score(examples("abc \ud800 " * 60)[0]), dict)


def test_layout_does_not_matter(detector_folder: Path) -> None:
    one, other = DetectorModel(classifier=str(detector_folder)).score_batch(examples("a b c " * 30, "a\nb\n\nc\n" * 30))
    assert isinstance(one, dict)
    assert one == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "asked", "found"),
    [(["Real", "Fake"], None, 1), (["ChatGPT", "Human"], None, 0), (["LABEL_0", "LABEL_1"], "LABEL_1", 1)],
)
def test_the_machine_label_is_found(labels: list[str], asked: str | None, found: int) -> None:
    assert machine_label(labels, asked, where="m") == found


@pytest.mark.parametrize(
    ("labels", "asked", "said"),
    [
        (["LABEL_0", "LABEL_1"], None, r"Say `label:`; it has LABEL_0, LABEL_1"),
        (["ai", "gpt", "human"], None, r"which of its labels"),
        (["Real", "Fake"], "fake", r"has no label 'fake'; did you mean 'Fake'\?"),
    ],
)
def test_a_label_that_cannot_be_told_is_asked_for(labels: list[str], asked: str | None, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        machine_label(labels, asked, where="m")


def test_a_language_model_is_no_classifier(tiny_model_dir: Path) -> None:
    with pytest.raises(ModelError, match=r"which of its labels|cannot be loaded"):
        DetectorModel(classifier=str(tiny_model_dir)).score_batch(examples(TEXTS[0]))


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="safetensors"):
        DetectorModel(classifier=str(tmp_path)).fingerprint()
