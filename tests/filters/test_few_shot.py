"""Examples of a file stand before every prompt; the same tokens are scored, and nothing else changes."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer
from workshop import curate, recipe_file, write_rows

from curate.annotations import load_annotations
from curate.errors import InputError, ModelError, UsageError
from curate.examples import Example, Message
from curate.filters import (
    Binoculars,
    FewShot,
    InstructionFollowingDifficulty,
    Likelihood,
    Perplexity,
    SelfAligned,
    Unscored,
)
from curate.filters import shots as module
from curate.likelihood import Rendered, Turn, Unrenderable
from curate.likelihood.packing import pack

PAIRS = [("What is 1 + 1?", "It is two."), ("Is it one or three?", "One and three."), ("Say yes.", "Yes, yes.")]


def message(role: Any, content: str) -> Message:
    return {"role": role, "content": content}


def example(prompt: str, completion: str, *, system: str | None = None) -> Example:
    first = [message("system", system)] if system else []
    return Example([*first, message("user", prompt), message("assistant", completion)])


ROW = example("What is 2 + 2?", "The answer is four.")


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in PAIRS]
    return write_rows(tmp_path_factory.mktemp("shots") / "shots.jsonl", rows)


def likelihood(model: Path, shots: Path | None, **parameters: Any) -> Likelihood:
    return Likelihood(model=str(model), few_shot=shots, **({"max_length": 128} | parameters))


def rows_of(one: Likelihood, examples: Sequence[Example]) -> list[Rendered]:
    rows = one.rendered(examples, one.renderer())
    assert all(isinstance(row, Rendered) for row in rows)
    return [row for row in rows if isinstance(row, Rendered)]


def nll_of(folder: Path, ids: list[int], start: int, end: int) -> float:
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(folder).double()(torch.tensor([ids])).logits[0]
    logp = torch.log_softmax(logits, dim=-1)
    return -sum(float(logp[place - 1, ids[place]]) for place in range(start, end))


# What is shown, and what is scored


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_the_shots_stand_as_earlier_turns_behind_the_rows_own_system_message(
    tiny_model_dir: Path, tmp_path: Path, system: str | None
) -> None:
    conversations = [
        [message("system", "Be long."), message("user", prompt), message("assistant", said)] for prompt, said in PAIRS
    ]
    file = write_rows(tmp_path / "chats.jsonl", [{"messages": turns} for turns in conversations])
    row = example(ROW.messages[0]["content"], ROW.completion, system=system)
    shown = [turn for turns in conversations for turn in turns[1:]]
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_model_dir)
    first = int(system is not None)
    prompt = tokenizer.apply_chat_template(
        [*row.messages[:first], *shown, row.messages[first]], tokenize=False, add_generation_prompt=True
    )
    start, ids = len(tokenizer(prompt)["input_ids"]), tokenizer(prompt + row.completion)["input_ids"]
    found = likelihood(tiny_model_dir, file).score(row)
    assert isinstance(found, dict)
    assert found["content_tokens"] == len(ids) - start
    assert found["content_nll"] == pytest.approx(nll_of(tiny_model_dir, ids, start, len(ids)), abs=1e-4)


def test_the_shots_stand_before_the_prompt_where_rows_are_concatenated(plain_model_dir: Path, shots: Path) -> None:
    text = "".join(f"{prompt}{completion}\n\n" for prompt, completion in PAIRS)
    tokenizer: Any = AutoTokenizer.from_pretrained(plain_model_dir)
    ids = tokenizer(text + ROW.prompt_text + ROW.completion)["input_ids"]
    found = likelihood(plain_model_dir, shots).score(ROW)
    assert isinstance(found, dict)
    start = len(ids) - int(found["content_tokens"] or 0)
    assert tokenizer.decode(ids[start:]) == ROW.completion
    assert found["content_nll"] == pytest.approx(nll_of(plain_model_dir, ids, start, len(ids)), abs=1e-4)
    several = Example([message("user", "a"), message("assistant", "b"), message("user", "c"), message("assistant", "d")])
    assert likelihood(plain_model_dir, shots).score(several) == Unscored("conversation_without_chat_template")


@pytest.mark.parametrize("model", ["tiny_model_dir", "plain_model_dir"])
@pytest.mark.parametrize("most", [20, 33, 60, 200])
def test_the_same_tokens_are_scored_as_without(request: pytest.FixtureRequest, shots: Path, model: str, most: int) -> None:
    folder = request.getfixturevalue(model)
    examples = [
        ROW,
        example("What is 2 + 2?", " The answer is four. " * 12),
        example("Say one, two, three and yes or no. " * 3, "\n\nNo.\n"),
        example("", "four"),  # the first token of a row without a prompt has no context, and is not scored with one either
        example("q\n", "日本語の答え：五 🦊"),
    ]
    without, behind = likelihood(folder, None, max_length=most), likelihood(folder, shots, max_length=most)
    results = list(zip(without.rendered(examples, without.renderer()), behind.rendered(examples, behind.renderer()), strict=True))
    assert any(isinstance(one, Rendered) and one.truncated for one, _ in results) == (most < 200)
    for one, other in results:
        if isinstance(one, Unrenderable):
            assert other == one
            continue
        assert isinstance(other, Rendered)
        by = len(other.input_ids) - len(one.input_ids)
        assert by > 20
        assert list(other.input_ids[one.start + by :]) == list(one.input_ids[one.start :])
        assert [(turn.start - by, turn.stop - by, turn.content[0] - by) for turn in other.turns] == [
            (turn.start, turn.stop, turn.content[0]) for turn in one.turns
        ]
        assert (other.truncated, other.border_merged) == (one.truncated, one.border_merged)


@pytest.mark.parametrize("most", [24, 40, 200])
def test_every_turn_is_scored_behind_the_shots_and_none_of_theirs(tiny_model_dir: Path, shots: Path, most: int) -> None:
    talk = Example([*ROW.messages, message("user", "And is it one?"), message("assistant", "No, it is not one.")])
    (alone,) = rows_of(likelihood(tiny_model_dir, None, turns="all", max_length=most), [talk])
    (behind,) = rows_of(likelihood(tiny_model_dir, shots, turns="all", max_length=most), [talk])
    by = len(behind.input_ids) - len(alone.input_ids)
    assert by > 20
    assert behind.input_ids[alone.start + by :] == alone.input_ids[alone.start :]
    assert [(turn.start - by, turn.stop - by) for turn in behind.turns] == [(turn.start, turn.stop) for turn in alone.turns]
    assert len(alone.turns) == (2 if most == 200 else len(alone.turns))
    (found,) = likelihood(tiny_model_dir, shots, turns="all", max_length=most).score_batch([talk])
    assert not isinstance(found, Unscored)
    expected = sum(nll_of(tiny_model_dir, list(behind.input_ids), turn.start, turn.stop) for turn in behind.turns)
    assert found["nll"] == pytest.approx(expected, rel=1e-5)


def test_a_border_that_merges_otherwise_is_scored_as_the_same_text() -> None:
    alone, whole = Rendered.whole([1, 2, 3, 4, 5], 2, truncated=True), Rendered.whole([1, 2, 3, 4, 5, 6, 7], 2)
    behind = Rendered.whole([9, 9, 9, 1, 2, 30, 4, 5, 6, 7], 5)
    assert module._aligned(alone, whole, behind) == Rendered(
        [9, 9, 9, 1, 2, 30, 4, 5], [Turn(5, 8, (5, 8))], border_merged=False, truncated=True
    )
    nothing_left = Rendered.whole([9, 9, 9, 9, 9, 9, 9, 9, 30, 31], 8)
    assert module._aligned(alone, whole, nothing_left) == Unrenderable("too_long")


def test_a_row_that_is_shown_is_not_scored(tiny_model_dir: Path, shots: Path) -> None:
    rows = [example(*PAIRS[1]), example(PAIRS[1][0], "One."), example(*PAIRS[1], system="Be brief."), ROW]
    results = likelihood(tiny_model_dir, shots).score_batch(rows)
    assert [isinstance(result, Unscored) for result in results] == [True, False, False, False]
    assert results[0] == Unscored("is_a_shot")
    assert FewShot(model=str(tiny_model_dir), few_shot=shots, max_length=128).score(rows[0]) == Unscored("is_a_shot")


def test_normalise_holds_for_the_shots_and_rows_are_compared_as_they_were_read(tiny_model_dir: Path, tmp_path: Path) -> None:
    marked = ("What is 1 + 1?", "It is <<1+1=2>>two.")
    file = write_rows(tmp_path / "s.jsonl", [{"prompt": marked[0], "completion": marked[1]}])
    one = likelihood(tiny_model_dir, file, normalise=["calculator_marks"])
    tokenizer = one.renderer().tokenizer
    (row,) = rows_of(one, [ROW])
    assert "It is two." in tokenizer.decode(list(row.input_ids))
    assert "<<" not in tokenizer.decode(list(row.input_ids))
    assert one.score(example(*marked)) == Unscored("is_a_shot")
    assert one.score(example(marked[0], "It is two.")) != Unscored("is_a_shot")


def test_the_unconditional_view_shows_nothing(tiny_model_dir: Path, shots: Path) -> None:
    behind, without = (likelihood(tiny_model_dir, file, view="unconditional").score(ROW) for file in (shots, None))
    assert behind == without


# What a pack holds


def test_the_shots_are_read_once_for_each_pack(tiny_model_dir: Path, shots: Path) -> None:
    one = likelihood(tiny_model_dir, shots, batch_tokens=4096)
    examples = [example(f"What is {number} + 2?", f"The answer is {number}.") for number in range(9)]
    rows = rows_of(one, examples)
    prefix = list(rows[0].input_ids[: module.prefix_tokens(one.shots() or pytest.fail("none"), one.renderer())])
    found = pack(rows, range(len(rows)))
    starts = [at for at in range(len(found.ids)) if list(found.ids[at : at + len(prefix)]) == prefix]
    assert starts == [0]
    seen: list[int] = []
    hook = one.engine().loaded.model.base_model.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        one.score_batch(examples)
    finally:
        hook.remove()
    assert sum(seen) == len(found.ids) < len(prefix) + sum(len(row.input_ids) - len(prefix) for row in rows)


def test_packed_scores_are_those_of_rows_alone(tiny_model_dir: Path, shots: Path) -> None:
    one = likelihood(tiny_model_dir, shots)
    examples = [example(f"What is {number} + 2?", f"The answer is {number}. " * (1 + number)) for number in range(5)]
    for found, row, each in zip(one.score_batch(examples), rows_of(one, examples), examples, strict=True):
        assert isinstance(found, dict)
        first, end = row.turns[0].content
        assert found["content_nll"] == pytest.approx(nll_of(tiny_model_dir, list(row.input_ids), first, end), rel=1e-5), each


# What is refused


def test_shots_for_which_the_model_has_no_room_are_refused_with_what_would_fit(tiny_model_dir: Path, shots: Path) -> None:
    one = likelihood(tiny_model_dir, shots, max_length=None)
    with pytest.raises(
        ModelError, match=r"takes (\d+) tokens and max_length is 512, but the model has 512 positions; set"
    ) as told:
        one.check_machine()
    with pytest.raises(ModelError, match="512 positions"):
        one.score(ROW)
    most = int(str(told.value).rsplit("max_length to ", 1)[1].split()[0])
    long = example("Say one.", "four " * 600)
    assert likelihood(tiny_model_dir, shots, max_length=most).check_machine() == []
    assert likelihood(tiny_model_dir, shots, max_length=most).score(long)["truncated"] is True  # type: ignore[index]
    with pytest.raises(ModelError, match="positions"):
        Perplexity(model=str(tiny_model_dir), few_shot=shots, max_length=most + 1).check_machine()


def test_a_row_that_leaves_the_models_positions_is_too_long(tiny_model_dir: Path, tmp_path: Path) -> None:
    """A template may write more behind the shots than it does in a row of one turn."""
    template = tmp_path / "t.jinja"
    template.write_text(
        "{% for m in messages %}{% if messages|length > 3 and 'x' in messages[-1]['content'] %}{{ 'no ' * 600 }}{% endif %}"
        "{{ m['content'] }} {% endfor %}"
    )
    file = write_rows(tmp_path / "s.jsonl", [{"prompt": "q", "completion": "a"}])
    one = likelihood(tiny_model_dir, file, chat_template=template, max_length=500)
    assert one.score(example("q", "xyz")) == Unscored("too_long")
    assert not isinstance(one.score(example("q", "yz")), Unscored)


@pytest.mark.parametrize(
    ("lines", "error", "words"),
    [
        (None, InputError, "no such file; paths are relative to the current directory"),
        ([], InputError, "0 rows"),
        ([{"prompt": "a", "completion": "b"}] * 65, UsageError, "more than 64 examples"),
        ([{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": None}], InputError, r"s.jsonl:2: no_completion"),
        ([{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": " "}], InputError, "row 1 has an empty completion"),
    ],
)
def test_files_that_cannot_be_shown_are_refused(
    tmp_path: Path, tiny_model_dir: Path, lines: Any, error: type[Exception], words: str
) -> None:
    file = tmp_path / "s.jsonl"
    if lines is not None:
        write_rows(file, lines)
    for ask in (likelihood(tiny_model_dir, file).fingerprint, likelihood(tiny_model_dir, file).check_machine):
        with pytest.raises(error, match=words):
            ask()


def test_shots_of_several_turns_need_a_template(tmp_path: Path, plain_model_dir: Path, tiny_model_dir: Path) -> None:
    turns = [message("user", "a"), message("assistant", "b"), message("user", "c"), message("assistant", "d")]
    file = write_rows(tmp_path / "s.jsonl", [{"messages": turns}])
    with pytest.raises(ModelError, match="examples of several turns need a chat template"):
        likelihood(plain_model_dir, file).check_machine()
    assert isinstance(likelihood(tiny_model_dir, file).score(ROW), dict)


def test_self_aligned_shows_its_own(shots: Path) -> None:
    with pytest.raises(ValidationError, match="few_shot is not for self_aligned"):
        SelfAligned(model="any", own="own", few_shot=shots)


# Identity


def test_the_fingerprint_is_of_what_is_shown_not_of_its_path(tmp_path: Path, tiny_model_dir: Path, shots: Path) -> None:
    there = likelihood(tiny_model_dir, shots).fingerprint()
    moved = Path(shutil.copy(shots, tmp_path / "moved.jsonl"))
    assert likelihood(tiny_model_dir, moved).fingerprint() == there
    array = tmp_path / "other.json"
    array.write_text(json.dumps([{"instruction": prompt, "output": completion} for prompt, completion in PAIRS]))
    assert likelihood(tiny_model_dir, array).fingerprint() == there
    turned = write_rows(moved, [{"prompt": prompt, "completion": completion} for prompt, completion in PAIRS[::-1]])
    assert likelihood(tiny_model_dir, turned).fingerprint() != there


def test_without_shots_a_fingerprint_is_what_it_was(tiny_model_dir: Path, shots: Path) -> None:
    plain = likelihood(tiny_model_dir, None)
    assert set(plain.model_facts()) == {"model", "dtype", "max_length", "chat_template"}
    assert set(plain.fingerprint()["parameters"]) == {"view"}
    assert likelihood(tiny_model_dir, shots).fingerprint() != plain.fingerprint()


# Filters


def test_gain_is_what_the_shots_take_off_the_loss(tiny_model_dir: Path, shots: Path) -> None:
    settings: dict[str, Any] = {"model": str(tiny_model_dir), "max_length": 128}
    found = FewShot(**settings, few_shot=shots).score(ROW)
    without, behind = Perplexity(**settings).score(ROW), Perplexity(**settings, few_shot=shots).score(ROW)
    assert isinstance(found, dict)
    assert isinstance(without, dict)
    assert isinstance(behind, dict)
    assert (found["nll"], found["few_shot_nll"]) == (without["content_nll"], behind["content_nll"])
    assert found["gain"] == found["nll"] - found["few_shot_nll"] != 0
    assert found["content_tokens"] == behind["content_tokens"]
    assert FewShot(**settings, few_shot=shots).depends()["without"] == Perplexity(**settings).depends()["conditional"]


def test_shots_of_the_same_task_help_a_trained_model(tmp_path: Path) -> None:
    from curate.reference import model_path, sample_path

    with sample_path().open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][:40]
    file = write_rows(tmp_path / "s.jsonl", [{"prompt": row["prompt"], "completion": row["response"]} for row in rows[:2]])
    examples = [example(row["prompt"], row["response"]) for row in rows]
    results = FewShot(model=str(model_path()), few_shot=file, max_length=160).score_batch(examples)
    assert results[:2] == [Unscored("is_a_shot")] * 2
    gains = [float(result["gain"]) for result in results if isinstance(result, dict)]
    assert len(gains) > 30
    assert sum(gains) > 0


def test_filters_of_two_passes_take_them_too(tiny_model_dir: Path, shots: Path) -> None:
    settings: dict[str, Any] = {"model": str(tiny_model_dir), "max_length": 128, "few_shot": shots}
    behind = likelihood(tiny_model_dir, shots).score(ROW)
    ifd = InstructionFollowingDifficulty(**settings).score(ROW)
    both = Binoculars(**settings, observer=str(tiny_model_dir), collapse_whitespace=False, fewest_words=1).score(ROW)
    assert isinstance(behind, dict)
    assert isinstance(ifd, dict)
    assert isinstance(both, dict)
    assert ifd["content_nll"] == behind["content_nll"] / behind["content_tokens"]
    assert both["log_ppl"] == pytest.approx(ifd["content_nll"], rel=1e-6)


def test_a_run_scores_behind_the_shots_and_says_so(tmp_path: Path, tiny_model_dir: Path, shots: Path) -> None:
    rows = [{"prompt": prompt, "response": completion} for prompt, completion in PAIRS]
    rows += [{"prompt": f"What is {n} + 1?", "response": f"It is {n + 1}."} for n in range(2, 9)]
    data = write_rows(tmp_path / "d.jsonl", rows)
    chosen = recipe_file(
        tmp_path / "r.yaml",
        ["keep: {field: few_shot.gain, highest: 50%}"],
        filters=f"{{few_shot: {{model: target, few_shot: {shots}, max_length: 128}}}}",
    )
    done = curate("--recipe", chosen, data, "--model", tiny_model_dir, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    (store,) = [one for one in load_annotations(tmp_path / "out").stores if one.filter_name == "few_shot"]
    assert store.reasons() == {"is_a_shot": 3}
    assert curate("select", tmp_path / "out", "--recipe", chosen).code == 0
