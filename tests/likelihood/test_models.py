"""Which model is loaded: its files, not its path; what cannot be told apart or is not there is refused before anything is planned."""

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import CHAT_TEMPLATE, save_tiny_model
from workshop import finished, some_rows, write_rows

from curate import progress
from curate.errors import ModelError, UsageError
from curate.examples import Example
from curate.filters import Likelihood, Unscored
from curate.filters import likelihood as module
from curate.likelihood import ModelSpec, Rendered, Renderer, load_engine, model_identity
from curate.likelihood.model import load_model, load_tokenizer


def example(prompt: str = "What is 2 + 2?", completion: str = "four") -> Example:
    return Example([{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}])


@pytest.fixture
def folder(tmp_path: Path, tiny_model_dir: Path) -> Path:
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


# One folder, one process, another model


def test_a_model_retrained_in_its_folder_is_scored_anew(folder: Path) -> None:
    before = Likelihood(model=str(folder))
    name, scores = before.fingerprint(), before.score(example())
    save_tiny_model(folder, chat_template=CHAT_TEMPLATE, seed=1)
    after = Likelihood(model=str(folder))
    assert after.fingerprint() != name
    assert after.score(example()) != scores


def test_a_changed_template_in_the_folder_is_rendered_anew(folder: Path) -> None:
    assert load_tokenizer(ModelSpec(str(folder))).chat_template == CHAT_TEMPLATE
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE + "!")
    assert load_tokenizer(ModelSpec(str(folder))).chat_template == CHAT_TEMPLATE + "!"


def test_a_folder_left_alone_is_loaded_once(folder: Path) -> None:
    spec = ModelSpec(str(folder))
    assert load_engine(spec) is load_engine(spec)


def test_a_model_that_changes_while_it_scores_ends_the_run(folder: Path) -> None:
    one = Likelihood(model=str(folder))
    settings = one.freeze()
    one.frozen(settings).score(example())
    save_tiny_model(folder, chat_template=CHAT_TEMPLATE, seed=1)
    with pytest.raises(ModelError, match="changed while it was scoring"):
        one.frozen(settings)


# What else a folder may hold


def test_an_adapter_is_refused_with_what_to_do(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"PEFT adapter; merge the adapter first: PeftModel.merge_and_unload\(\)"):
        Likelihood(model=str(folder)).fingerprint()


@pytest.mark.parametrize("name", ["spiece.model", "qwen.tiktoken", "additional_chat_templates/default.jinja"])
def test_every_file_that_a_tokenizer_is_made_of_is_part_of_the_identity(folder: Path, name: str) -> None:
    before = model_identity(str(folder), None)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")
    assert model_identity(str(folder), None)["tokenizer"] != before["tokenizer"]


def test_an_architecture_without_sdpa_is_loaded_with_eager_attention(folder: Path) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    size = len(load_tokenizer(ModelSpec(str(folder))))
    BloomForCausalLM(BloomConfig(vocab_size=size, hidden_size=16, n_layer=1, n_head=2)).save_pretrained(folder)
    assert load_model(ModelSpec(str(folder))).model.config._attn_implementation == "eager"


def test_sdpa_is_asked_for_and_recorded(tiny_model_dir: Path) -> None:
    assert load_model(ModelSpec(str(tiny_model_dir))).model.config._attn_implementation == "sdpa"
    assert Likelihood(model=str(tiny_model_dir)).freeze()["attention"] == "packs, else sdpa, else eager"


# Devices


@pytest.mark.parametrize("device", ["cdua", "cuda:99", "cpu:7", "meta", ""])
def test_a_device_that_is_not_there_is_refused_before_planning(tiny_model_dir: Path, device: str) -> None:
    one = Likelihood(model=str(tiny_model_dir), device=device)
    for ask in (one.fingerprint, one.freeze):
        with pytest.raises(UsageError, match=r"no such device; torch .* finds cpu"):
            ask()


def test_a_plan_for_a_device_that_is_gone_says_so(tiny_model_dir: Path) -> None:
    one = Likelihood(model=str(tiny_model_dir), device="cpu")
    with pytest.raises(UsageError, match="the plan of this folder was frozen with it"):
        one.frozen(one.freeze() | {"device": "cuda:99"})


def test_an_option_that_a_frozen_plan_overrides_is_told_once(tiny_model_dir: Path) -> None:
    module._tell_once.cache_clear()
    settings = Likelihood(model=str(tiny_model_dir), device="cpu").freeze()
    with progress.shown(told := io.StringIO()):
        for _ in range(3):
            Likelihood(model=str(tiny_model_dir), device="cpu", batch_tokens=77).frozen(settings)
    assert told.getvalue() == "the plan of this folder was frozen with batch_tokens 4096; batch_tokens 77 is ignored\n"


# The Hub


@pytest.mark.parametrize("revision", [["--model-revision", "0" * 40], []], ids=["commit", "branch"])
def test_a_hub_that_cannot_be_reached_has_its_own_exit_code(tmp_path: Path, revision: list[str]) -> None:
    data = write_rows(tmp_path / "d.jsonl", some_rows(4))
    done = finished("preview", data, "--model", "org/absent", *revision, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert done.code == 6, done.err
    assert "Traceback" not in done.err
    assert "the Hub cannot be reached" in done.err


# Templates


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('') }}", "chat_template: TemplateError"),
        ("{{ 1 // 0 }}", "chat_template: integer division or modulo by zero"),
        ("{{ raise_exception('one\ntwo') }}", "chat_template: one"),
    ],
)
def test_whatever_a_template_raises_is_the_rows_reason(tmp_path: Path, tiny_model_dir: Path, template: str, reason: str) -> None:
    (tmp_path / "t.jinja").write_text(template)
    result = Likelihood(model=str(tiny_model_dir), chat_template=tmp_path / "t.jinja").score(example())
    assert result == Unscored(reason)


@pytest.mark.parametrize(("template", "words"), [("a\n{{ }", "line 2"), ("{{ 1|nofilter }}", "nofilter"), (" \n", "is empty")])
def test_a_template_file_that_cannot_be_one_is_refused(tmp_path: Path, tiny_model_dir: Path, template: str, words: str) -> None:
    (tmp_path / "t.jinja").write_text(template)
    with pytest.raises(UsageError, match=f"--chat-template.*{words}"):
        Likelihood(model=str(tiny_model_dir), chat_template=tmp_path / "t.jinja").freeze()


def test_a_models_own_broken_template_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(ModelError, match="its chat template cannot be compiled: line 1"):
        Likelihood(model=str(folder)).freeze()


# Progress


def test_progress_counts_every_token_that_the_model_reads(tiny_model_dir: Path) -> None:
    spec = ModelSpec(str(tiny_model_dir))
    rows: list[Any] = Renderer.load(spec, max_length=512).render([example(), example("Say one, two and three.", "one")])
    told: list[int] = []
    load_engine(spec).score(rows, batch_tokens=4096, on_tokens=told.append)
    assert all(isinstance(row, Rendered) for row in rows)
    assert sum(told) == sum(len(row.input_ids) for row in rows)
