"""Answers are the model's own greedy ones, whatever they are batched with; options and held-out rows are scored as filters score."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import save_tiny_model
from small_trials import QUIET, examples_of

from curate.errors import InputError, UsageError
from curate.examples import Example, Message
from curate.filters import Likelihood, build_filter
from curate.likelihood import Rendered
from curate.recipes.trial import Training
from curate.reference import model_path
from curate.trials import evaluation
from curate.trials.evaluation import (
    Asker,
    load_choices,
    load_generations,
    save_choices,
    save_generations,
)
from curate.trials.tasks import Generation, Item, Task, load_items, sample_task
from curate.trials.training import askable, initial_model

pytestmark = QUIET
TASK = sample_task().model_copy(update={"limit": 24, "max_new_tokens": 40})
ITEMS: Sequence[Item] = load_items(TASK)


def likelihood(model: Path, **settings: Any) -> Likelihood:
    found = build_filter("likelihood", {"model": str(model), "device": "cpu", **settings}, where="test")
    assert isinstance(found, Likelihood)
    return found


def asker_of(model: Path, *, rank: int = 0, processes: int = 1, **settings: Any) -> Asker:
    filter_ = likelihood(model, **settings)
    return Asker(askable(initial_model(filter_, Training(), seed=0)), filter_, rank, processes)


@pytest.fixture(scope="module")
def asker() -> Asker:
    return asker_of(model_path())


@pytest.fixture(scope="module")
def answers(asker: Asker) -> dict[int, Generation]:
    return asker.generate(TASK, ITEMS)


def asking(**changed: Any) -> Task:
    return TASK.model_copy(update=changed)


def item(text: str, index: int = 0, options: tuple[str, ...] = ()) -> Item:
    message: Message = {"role": "user", "content": text}
    return Item(index, f"key-{index}", "test", (message,), ("gold",), options=options, right=0 if options else None)


def alone(asker: Asker, item: Item, max_new_tokens: int) -> tuple[list[int], bool]:
    """New tokens of one prompt without its end, chosen one by one from plain forward passes, and whether two came out even."""
    import torch

    (prompt,) = asker.likelihood.renderer().prompts([item.messages])
    ids, is_tied = list(prompt), False
    with torch.inference_mode():
        for _ in range(max_new_tokens):
            logits = asker.model(input_ids=torch.tensor([ids])).logits[0, -1]
            first, second = logits.topk(2).values.tolist()
            is_tied = is_tied or first - second < 1e-3
            ids.append(int(logits.argmax()))
            if ids[-1] == asker.model.config.eos_token_id:
                return ids[len(prompt) : -1], is_tied
    return ids[len(prompt) :], is_tied


# Generations


def test_answers_are_the_most_likely_tokens_one_by_one(asker: Asker, answers: dict[int, Generation]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_path())
    compared = 0
    for one in ITEMS:
        tokens, is_tied = alone(asker, one, TASK.max_new_tokens)
        if not is_tied:
            expected = Generation(tokenizer.decode(tokens), len(tokens), len(tokens) == TASK.max_new_tokens)
            assert answers[one.index] == expected
            compared += 1
    assert compared > len(ITEMS) / 2
    assert len({answer.tokens for answer in answers.values()}) > 5  # so that batches hold answers of many lengths


@pytest.mark.parametrize("size", [1, 5])
def test_answers_do_not_depend_on_what_is_asked_together(
    size: int, asker: Asker, answers: dict[int, Generation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "LONGEST_BATCH", size)
    assert asker.generate(TASK, ITEMS[::-1]) == answers


def test_processes_share_the_items(asker: Asker, answers: dict[int, Generation], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "LONGEST_BATCH", 5)
    parts = [Asker(asker.model, asker.likelihood, rank, 3).generate(TASK, ITEMS) for rank in range(3)]
    assert sum(map(len, parts)) == len(ITEMS)
    assert {key: value for part in parts for key, value in part.items()} == answers


def test_progress_counts_every_item_once(asker: Asker) -> None:
    counts: list[int] = []
    asker.generate(asking(max_new_tokens=2), ITEMS, counts.append)
    assert sum(counts) == len(ITEMS)


def test_an_answer_ends_before_the_first_stop_string(asker: Asker, answers: dict[int, Generation]) -> None:
    stops = ("Answer:", "is")
    found = asker.generate(asking(stop=stops), ITEMS)
    assert any(stop in answer.text for answer in answers.values() for stop in stops)
    for index, whole in answers.items():
        ends = [at for stop in stops if (at := whole.text.find(stop)) >= 0]
        assert found[index].text == (whole.text[: min(ends)] if ends else whole.text)
        assert found[index].is_cut_off == (whole.is_cut_off and not ends)
        assert found[index].tokens <= whole.tokens


def test_a_stop_string_that_begins_in_the_prompt_ends_nothing(asker: Asker, answers: dict[int, Generation]) -> None:
    # Under the packaged template a prompt ends with `assistant` and a line break.
    stops = tuple({"\n" + answer.text[:2] for answer in answers.values()})
    assert not any(stop in answer.text for answer in answers.values() for stop in stops[:1])
    whole = {index: answer for index, answer in answers.items() if not any(stop in answer.text for stop in stops)}
    assert len(whole) > 3
    found = asker.generate(asking(stop=stops), ITEMS)
    assert {index: found[index] for index in whole} == whole


def test_an_answer_without_an_end_counts_as_cut_off(asker: Asker, answers: dict[int, Generation]) -> None:
    found = asker.generate(asking(max_new_tokens=3), ITEMS)
    assert {(answer.tokens, answer.is_cut_off) for answer in found.values()} == {(3, True)}
    assert all(answers[index].text.startswith(answer.text.rstrip("�")) for index, answer in found.items())


def test_a_prompt_that_leaves_no_room_is_not_asked_and_counts_as_cut_off(tiny_model_dir: Path) -> None:
    asker = asker_of(tiny_model_dir)
    one, other = item("four", 0), item("four " * 30, 1)
    lengths = [len(ids) for ids in asker.likelihood.renderer().prompts([one.messages, other.messages])]
    room = 512 - lengths[0]  # exactly enough for the shorter one
    found = asker.generate(asking(max_new_tokens=room), [one, other])
    assert found[0].tokens > 0
    assert found[1] == Generation("", 0, True)
    assert asker.generate(asking(max_new_tokens=room + 1), [one])[0] == Generation("", 0, True)


def test_padding_is_no_part_of_an_answer_where_the_tokenizer_pads_with_its_end(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = save_tiny_model(tmp_path, chat_template=None, seed=3)
    asked = [item("What is 2?", 0), item("What is the answer to the question? " * 3, 1)]
    before = asker_of(folder).generate(asking(max_new_tokens=8), asked)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    assert asker_of(folder).generate(asking(max_new_tokens=8), asked) == before


SETTINGS: dict[str, dict[str, Any]] = {
    "sampling": {"do_sample": True, "temperature": 1.5, "top_p": 0.9, "top_k": 20},
    "sampling of less common kinds": {
        "do_sample": True,
        "min_p": 0.1,
        "typical_p": 0.5,
        "epsilon_cutoff": 3e-4,
        "eta_cutoff": 3e-4,
    },
    "beams": {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
    "repetition": {"repetition_penalty": 1.3},
    "repeated n-grams": {"no_repeat_ngram_size": 2},
    "length": {"max_length": 30, "max_new_tokens": 2},
    "least length": {"min_new_tokens": 30},
    "least length, prompt included": {"min_length": 60},
    "suppressed tokens": {"suppress_tokens": [10, 20, 30, 40, 50, 60, 70, 80, 90], "begin_suppress_tokens": [100]},
    "bad words": {"bad_words_ids": [[token] for token in range(10, 400)]},
    "bias": {"sequence_bias": [[[token], -20.0] for token in range(10, 400)]},
    "forced end": {"forced_eos_token_id": 5},
    "decay": {"exponential_decay_length_penalty": [2, 3.0]},
    "several answers": {"do_sample": True, "num_return_sequences": 2},
    "output as a mapping": {"return_dict_in_generate": True, "output_scores": True},
    "stop strings": {"stop_strings": ["e"]},
    "time": {"max_time": 1e-6},
    "lookup": {"prompt_lookup_num_tokens": 3},
    "no cache": {"use_cache": False},
}


@pytest.mark.parametrize(
    "settings",
    [pytest.param(value, id=name) for name, value in SETTINGS.items()],
)
def test_generation_settings_of_a_checkpoint_do_not_change_a_measurement(
    settings: dict[str, Any], asker: Asker, answers: dict[int, Generation], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import GenerationConfig

    given = GenerationConfig(eos_token_id=2, pad_token_id=3, **settings)
    monkeypatch.setattr(asker.model, "generation_config", given)
    wanted = {one.index: answers[one.index] for one in ITEMS[:6]}
    assert asker.generate(TASK, ITEMS[:6]) == wanted


def test_further_end_tokens_of_a_checkpoint_end_an_answer(
    asker: Asker, answers: dict[int, Generation], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    (colon,) = AutoTokenizer.from_pretrained(model_path()).encode(":", add_special_tokens=False)
    monkeypatch.setattr(asker.model, "generation_config", GenerationConfig(eos_token_id=[2, colon], pad_token_id=3))
    found = asker.generate(TASK, ITEMS)
    assert all(not answer.is_cut_off and ":" not in answer.text for answer in found.values())
    assert all(answers[index].text.startswith(answer.text) for index, answer in found.items())


# Likelihoods


def log_likelihood(asker: Asker, prompt: str, option: str) -> float:
    """Of the option's own tokens, from one plain forward pass."""
    import torch

    messages: list[Message] = [{"role": "user", "content": prompt}, {"role": "assistant", "content": option}]
    (row,) = asker.likelihood.renderer().render([Example(messages)])
    assert isinstance(row, Rendered)
    first, end = row.turns[0].content
    with torch.inference_mode():
        logits = asker.model(input_ids=torch.tensor([list(row.input_ids)])).logits[0].log_softmax(-1)
    return sum(float(logits[at - 1, row.input_ids[at]]) for at in range(first, end))


def test_choosing_scores_every_option_as_it_would_be_alone(asker: Asker) -> None:
    asked = [item("Which is larger: 60 or 64?", 0, ("60", "64", "neither of them")), item("Odd or even: 16?", 1, ("odd", "even"))]
    found = asker.choose(asked)
    for one in asked:
        expected = [(log_likelihood(asker, one.question, option), len(option)) for option in one.options]
        assert [size for _, size in found[one.index]] == [size for _, size in expected]
        assert [value for value, _ in found[one.index]] == pytest.approx([value for value, _ in expected], abs=1e-3)


def test_processes_share_the_choices(asker: Asker) -> None:
    asked = [item(f"Odd or even: {n}?", n, ("odd", "even")) for n in range(5)]
    parts = [Asker(asker.model, asker.likelihood, rank, 2).choose(asked) for rank in range(2)]
    together, whole = {**parts[0], **parts[1]}, asker.choose(asked)
    assert [len(part) for part in parts] == [3, 2]
    for n in range(5):
        assert [value for value, _ in together[n]] == pytest.approx([value for value, _ in whole[n]], abs=1e-4)


def test_an_option_that_cannot_be_scored_is_an_error(tiny_model_dir: Path) -> None:
    with pytest.raises(InputError, match="item 4: option"):
        asker_of(tiny_model_dir).choose([item("four " * 800, 4, ("yes", "no"))])


def test_an_option_that_is_cut_off_is_an_error(tiny_model_dir: Path) -> None:
    asker = asker_of(tiny_model_dir, max_length=40)
    assert asker.choose([item("four", 0, ("yes", "no"))])
    with pytest.raises(InputError, match="item 0: option"):
        asker.choose([item("four", 0, ("yes", "no " * 40))])


def test_the_held_out_loss_is_the_sum_of_what_the_filter_measures(asker: Asker) -> None:
    rows = examples_of(17)
    scores = [score for score in asker.likelihood.score_batch(rows) if isinstance(score, dict)]
    assert len(scores) == 17
    nll, tokens = asker.held_out(rows)
    assert nll == pytest.approx(sum(float(score["nll"] or 0) for score in scores), rel=1e-5)
    assert tokens == sum(int(score["tokens"] or 0) for score in scores)


def test_processes_share_the_held_out_rows(asker: Asker) -> None:
    rows = examples_of(17)
    parts = [Asker(asker.model, asker.likelihood, rank, 3).held_out(rows) for rank in range(3)]
    nll, tokens = asker.held_out(rows)
    assert sum(part[0] for part in parts) == pytest.approx(nll, rel=1e-6)
    assert sum(part[1] for part in parts) == tokens


# Stored answers


def test_stored_answers_load_back_and_refuse_other_items(tmp_path: Path, answers: dict[int, Generation]) -> None:
    path = tmp_path / "answers.parquet"
    save_generations(path, ITEMS, answers)
    assert load_generations(path, ITEMS) == [answers[one.index] for one in ITEMS]
    for others in (ITEMS[:-1], ITEMS[::-1], [*ITEMS[:-1], item("another")]):
        with pytest.raises(UsageError, match=r"answers\.parquet: answers other items than the task has now"):
            load_generations(path, others)


def test_stored_likelihoods_load_back_and_refuse_other_items(tmp_path: Path) -> None:
    path, asked = tmp_path / "choices.parquet", [item("a", 0, ("x", "yy")), item("b", 1, ("z", "w"))]
    found = {0: [(-1.5, 1), (-2.0, 2)], 1: [(-0.1, 1), (-3.0, 1)]}
    save_choices(path, asked, found)
    assert load_choices(path, asked) == [found[0], found[1]]
    with pytest.raises(UsageError, match="other items"):
        load_choices(path, asked[:1])


def test_stored_answers_keep_every_character(tmp_path: Path) -> None:
    texts = ["", "\n\n", "日本語 😀", "\u2028 \x00 �", "a" * 100_000]
    found = {n: Generation(text, n, bool(n % 2)) for n, text in enumerate(texts)}
    asked = [item(f"q{n}", n) for n in found]
    save_generations(tmp_path / "a.parquet", asked, found)
    assert load_generations(tmp_path / "a.parquet", asked) == list(found.values())
