"""binoculars is the surprise of the text over the surprise that the observer expects, as in the published code."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_tiny_model
from transformers import AutoModelForCausalLM
from workshop import curate, recipe_file, write_rows

from curate.annotations import load_annotations
from curate.errors import ModelError, RecipeError
from curate.examples import Example
from curate.filters import Binoculars, Detectors, Likelihood, Unscored, build_filter
from curate.filters.base import BackOff
from curate.likelihood import ModelSpec, Pair, Rendered, Renderer, engine, load_pair

LONG = " ".join(["the answer to the question is four and yes or no"] * 6)


@pytest.fixture(scope="module")
def observer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the vocabulary of the tiny one that is surer of itself: random weights of that size predict nearly nothing."""
    folder = save_tiny_model(tmp_path_factory.mktemp("observer") / "m", chat_template=None, seed=1)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.ndim == 2 else 1.0)
    model.save_pretrained(folder)
    return folder


def example(completion: str, prompt: str = "What is 2 + 2?") -> Example:
    return Example([{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}])


def binoculars(model: Path, observer: Path, **parameters: Any) -> Binoculars:
    return Binoculars(model=str(model), observer=str(observer), **({"fewest_words": 1} | parameters))


@pytest.mark.parametrize("view", ["conditional", "unconditional"])
def test_it_agrees_with_the_published_formula_in_float64(tiny_model_dir: Path, observer: Path, view: Any) -> None:
    text = "  One, two,\n\nthree and\tyes or no.  "
    found = binoculars(tiny_model_dir, observer, view=view).score(example(text))
    assert isinstance(found, dict)
    renderer = Renderer.load(ModelSpec(str(tiny_model_dir)), max_length=512)
    (row,) = renderer.render([example("One, two, three and yes or no.")])
    assert isinstance(row, Rendered)
    first, end = row.turns[0].content
    eos = renderer.tokenizer.eos_token_id
    ids, start = (list(row.input_ids), first) if view == "conditional" else ([eos, *row.input_ids[first:end]], 1)
    places = torch.arange(start, start + end - first)
    with torch.inference_mode():
        performer_logits, observer_logits = (
            AutoModelForCausalLM.from_pretrained(folder).double()(torch.tensor([ids])).logits[0, places - 1]
            for folder in (tiny_model_dir, observer)
        )
    loss = torch.nn.CrossEntropyLoss()
    ppl = float(loss(performer_logits, torch.tensor(ids)[places]))
    x_ppl = float(loss(input=performer_logits, target=torch.softmax(observer_logits, dim=-1)))
    assert found["log_ppl"] == pytest.approx(ppl, abs=1e-5)
    assert found["cross_entropy"] == pytest.approx(x_ppl, abs=1e-5)
    assert found["score"] == pytest.approx(ppl / x_ppl, abs=1e-5)
    assert (found["content_tokens"], found["words"], found["truncated"]) == (end - first, 7, False)


def test_the_roles_are_not_the_same(tiny_model_dir: Path, observer: Path) -> None:
    one, other = (
        binoculars(*folders, view="unconditional").score(example(LONG))
        for folders in ((tiny_model_dir, observer), (observer, tiny_model_dir))
    )
    assert isinstance(one, dict)
    assert isinstance(other, dict)
    assert abs(float(one["cross_entropy"]) - float(other["cross_entropy"])) > 1e-3


def test_with_itself_as_observer_the_cross_entropy_is_the_entropy(tiny_model_dir: Path) -> None:
    found = binoculars(tiny_model_dir, tiny_model_dir, collapse_whitespace=False).score(example(LONG))
    sums = Likelihood(model=str(tiny_model_dir)).score(example(LONG))
    assert isinstance(found, dict)
    assert isinstance(sums, dict)
    assert found["cross_entropy"] * found["content_tokens"] == pytest.approx(sums["content_entropy"], rel=1e-6)
    assert found["log_ppl"] * found["content_tokens"] == pytest.approx(sums["content_nll"], rel=1e-6)


def test_short_rows_and_layout_are_treated_as_by_the_other_detectors(tiny_model_dir: Path, observer: Path) -> None:
    ours = binoculars(tiny_model_dir, observer, fewest_words=50)
    theirs = Detectors(model=str(tiny_model_dir))
    for text in ("three short words", "", " \n", "word " * 49, "word " * 50, f"{'word ' * 49}<<1+1=2>>"):
        one, other = ours.score(example(text)), theirs.score(example(text))
        assert isinstance(one, Unscored) == isinstance(other, Unscored)
        if isinstance(one, Unscored):
            assert one == other
        else:
            assert (one["words"], one["content_tokens"]) == (other["words"], other["content_tokens"])  # type: ignore[index]
    lines = LONG.replace(" the ", "\n\nthe ")
    assert ours.score(example(LONG)) == ours.score(example(lines))
    seeing = binoculars(tiny_model_dir, observer, collapse_whitespace=False)
    assert seeing.score(example(LONG)) != seeing.score(example(lines))


def test_rows_that_are_not_scored_are_not_run(tiny_model_dir: Path, observer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pair, "_statistics", lambda *_: pytest.fail("a row was run"))
    ours = binoculars(tiny_model_dir, observer, fewest_words=50)
    assert ours.score_batch([example("three short words"), example("")]) == [Unscored("too_short"), Unscored("empty_completion")]


def test_the_fingerprint_covers_the_observers_weights_and_tokenizer_not_its_path(
    tmp_path: Path, tiny_model_dir: Path, observer: Path
) -> None:
    there = binoculars(tiny_model_dir, observer).fingerprint()
    moved = Path(shutil.copytree(observer, tmp_path / "moved"))
    assert binoculars(tiny_model_dir, moved).fingerprint() == there
    weights = moved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert binoculars(tiny_model_dir, moved).fingerprint() != there
    other = Path(shutil.copytree(observer, tmp_path / "other"))
    (other / "tokenizer_config.json").write_text((other / "tokenizer_config.json").read_text() + " ")
    assert binoculars(tiny_model_dir, other).fingerprint() != there


def test_an_observer_that_changes_while_it_scores_is_refused(tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = save_tiny_model(tmp_path / "m", chat_template=None, seed=1)
    one = binoculars(tiny_model_dir, folder)
    settings = one.freeze()
    assert one.frozen(settings, backoff=2).batch_tokens == settings["batch_tokens"] // 4
    save_tiny_model(folder, chat_template=None, seed=2)
    with pytest.raises(ModelError, match="changed while it was scoring"):
        one.frozen(settings)


def test_the_longest_row_is_one_that_both_models_can_read(tmp_path: Path, tiny_model_dir: Path) -> None:
    import json

    short = save_tiny_model(tmp_path / "m", chat_template=None, seed=1)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    assert binoculars(tiny_model_dir, short).resolved_max_length() == 64
    with pytest.raises(ModelError, match="max_length 100, but the observer has 64 positions; ask for fewer"):
        binoculars(tiny_model_dir, short, max_length=100).fingerprint()
    with pytest.raises(ModelError, match="max_length 100, but the model has 64 positions; ask for fewer"):
        binoculars(short, tiny_model_dir, max_length=100).fingerprint()


def test_too_little_memory_asks_for_smaller_batches(
    tiny_model_dir: Path, observer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(load_pair(ModelSpec(str(tiny_model_dir)), ModelSpec(str(observer))).observer, "states", full)
    with pytest.raises(BackOff):
        binoculars(tiny_model_dir, observer).score_batch([example(LONG), example("One, two.")])
    assert binoculars(tiny_model_dir, observer).score(example(LONG)) == Unscored("out_of_memory")
    engine._load_engine.cache_clear()


def test_an_observer_has_to_be_named() -> None:
    with pytest.raises(RecipeError, match="observer: Field required"):
        build_filter("binoculars", {"model": "target"}, where="recipe")


# As a part of a run


def test_a_run_scores_and_warns_that_nobody_has_calibrated_it(tmp_path: Path, tiny_model_dir: Path, observer: Path) -> None:
    data = write_rows(
        tmp_path / "d.jsonl", [{"prompt": f"Say {n}.", "response": f"One and {n} and {LONG}", "source": "x"} for n in range(8)]
    )
    chosen = recipe_file(
        tmp_path / "r.yaml",
        ["keep: {field: binoculars.score, highest: 50%}"],
        filters=f"{{perplexity: {{model: target}}, binoculars: {{model: target, observer: '{observer}'}}}}",
    )
    done = curate("--recipe", chosen, data, "--model", tiny_model_dir, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert done.json["kept"] == 4
    assert [said for said in done.json["warnings"] if "binoculars.score, which is uncalibrated here" in said]
    scores = {store.filter_name: store for store in load_annotations(tmp_path / "out").stores}["binoculars"]
    assert scores.reasons() == {}
    again = curate("select", tmp_path / "out", "--recipe", chosen)
    assert again.code == 0, again.err


def test_a_foreign_observer_is_refused_before_anything_is_read(tmp_path: Path, tiny_model_dir: Path) -> None:
    from curate.reference import model_path

    chosen = recipe_file(
        tmp_path / "r.yaml",
        ["keep: {field: binoculars.score, highest: 50%}"],
        filters=f"{{binoculars: {{model: target, observer: '{model_path()}'}}}}",
    )
    done = curate("--recipe", chosen, tmp_path / "absent.jsonl", "--model", tiny_model_dir, "--out", tmp_path / "out")
    assert done.code == ModelError.exit_code
    assert "their tokenizers differ in" in done.err
    assert not (tmp_path / "out").exists()
