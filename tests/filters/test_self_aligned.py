"""self_aligned scores a completion behind k correct answers of the target's own to other questions."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CHAT_TEMPLATE, save_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from workshop import curate, recipe_file, write_rows

from curate.annotations import load_annotations
from curate.errors import UsageError
from curate.examples import Example, Message
from curate.filters import Perplexity, SelfAligned, Unscored
from curate.pipeline import run


def message(role: Any, content: str) -> Message:
    return {"role": role, "content": content}


def example(question: str, answer: str, *, source: str = "other", gold: str | None = None, row: int = 0) -> Example:
    return Example([message("user", question), message("assistant", answer)], row=row, source=source, gold=gold)


def own(count: int, *, wrong: int = 0) -> list[Example]:
    """Answers of the target's own, the last `wrong` of them not what gold says."""
    return [
        example(f"What is {n} + 1?", f"It is {n + 1 + (n >= count - wrong)}.", source="own", gold=str(n + 1), row=n)
        for n in range(count)
    ]


OTHER = example("Say four.", "The answer is four.", row=99)


def fitted(model: Path, rows: list[Example], **parameters: Any) -> SelfAligned:
    return SelfAligned(model=str(model), **({"own": "own"} | parameters)).fit(rows)


def shown(one: SelfAligned, row: Example = OTHER) -> list[str]:
    return [demonstration.question for demonstration in one._shown_to(row)]


def nll_of(folder: Path, ids: list[int], start: int, end: int) -> float:
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(folder).double()(torch.tensor([ids])).logits[0]
    logp = torch.log_softmax(logits, dim=-1)
    return -sum(float(logp[place - 1, ids[place]]) for place in range(start, end)) / (end - start)


def test_the_answers_stand_as_earlier_turns_of_a_chat(tiny_model_dir: Path) -> None:
    one = fitted(tiny_model_dir, own(4))
    row = Example([message("system", "Be brief."), *OTHER.messages], row=99)
    turns: list[Message] = [message("system", "Be brief.")]
    for demonstration in one._shown_to(row):
        turns += [message("user", demonstration.question), message("assistant", demonstration.answer)]
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_model_dir)
    prompt = tokenizer.apply_chat_template([*turns, row.messages[1]], tokenize=False, add_generation_prompt=True)
    assert prompt.count("It is") == 3
    ids = tokenizer(prompt + row.completion)["input_ids"]
    start = len(tokenizer(prompt)["input_ids"])
    found = one.score(row)
    assert isinstance(found, dict)
    assert found["content_nll"] == pytest.approx(nll_of(tiny_model_dir, ids, start, len(ids)), abs=1e-4)
    assert found["content_tokens"] == len(ids) - start
    assert found["perplexity"] == pytest.approx(math.exp(found["content_nll"]))
    assert found["truncated"] is False


def test_the_answers_stand_before_the_prompt_where_rows_are_concatenated(plain_model_dir: Path) -> None:
    one = fitted(plain_model_dir, own(4))
    text = "".join(f"{each.question}{each.answer}\n\n" for each in one._shown_to(OTHER))
    tokenizer: Any = AutoTokenizer.from_pretrained(plain_model_dir)
    ids = tokenizer(text + OTHER.prompt_text + OTHER.completion)["input_ids"]
    found = one.score(OTHER)
    assert isinstance(found, dict)
    tokens = int(found["content_tokens"] or 0)
    assert found["content_nll"] == pytest.approx(nll_of(plain_model_dir, ids, len(ids) - tokens, len(ids)), abs=1e-4)
    several = Example([message("user", "a"), message("assistant", "b"), message("user", "c"), message("assistant", "d")])
    assert one.score(several) == Unscored("conversation_without_chat_template")


def test_no_row_sees_the_answer_to_its_own_question(tiny_model_dir: Path) -> None:
    rows = own(4)
    one = fitted(tiny_model_dir, rows)
    assert len(shown(one)) == 3
    for row in rows:
        assert len(shown(one, row)) == 3
        assert row.prompt_text not in shown(one, row)


def test_the_draw_depends_on_texts_and_seed_alone(tiny_model_dir: Path) -> None:
    rows = own(30)
    one = fitted(tiny_model_dir, rows)
    shuffled = random.Random(0).sample([*rows, OTHER, example("More?", "No.")], 32)
    again = fitted(tiny_model_dir, shuffled)
    assert shown(again) == shown(one)
    assert again.fingerprint() == one.fingerprint()
    other = fitted(tiny_model_dir, rows, seed=1)
    assert shown(other) != shown(one)
    assert other.fingerprint() != one.fingerprint()
    assert other.identity()["demonstrations"] != one.identity()["demonstrations"]


def test_wrong_long_and_foreign_answers_are_not_shown(tiny_model_dir: Path) -> None:
    long = example("What is 2 + 2?", "4 " * 900, source="own", gold="4")
    foreign = example("What is 2 + 3?", "5", source="human", gold="5")
    unknown = example("What is 2 + 4?", "6", source="own")
    rows = [long, foreign, unknown, *own(10, wrong=6)]
    assert set(shown(fitted(tiny_model_dir, rows))) <= {f"What is {n} + 1?" for n in range(4)}


def test_one_question_gives_one_answer(tiny_model_dir: Path) -> None:
    rows = [*own(4), *(example("What is 0 + 1?", f"It is{' ' * n}1.", source="own", gold="1") for n in range(20))]
    assert len(set(shown(fitted(tiny_model_dir, rows)))) == 3


def test_too_few_right_answers_are_refused_with_what_was_found(tiny_model_dir: Path) -> None:
    with pytest.raises(UsageError, match=r"right answers to 4 questions from 'own'.* found 3 among 9 rows \(9 have gold\)"):
        fitted(tiny_model_dir, own(9, wrong=6))
    assert fitted(tiny_model_dir, own(9, wrong=6), k=2)
    with pytest.raises(UsageError, match="no row is of the source 'own'; there are other"):
        fitted(tiny_model_dir, [OTHER])


def test_demonstrations_that_leave_no_room_are_refused(tiny_model_dir: Path) -> None:
    long = [example(f"What is {n} + 1?", f"{'So it is. ' * 40}It is {n + 1}.", source="own", gold=str(n + 1)) for n in range(4)]
    with pytest.raises(UsageError, match=r"take \d+ of the model's 512 positions.*most_characters, now 1500"):
        fitted(tiny_model_dir, long)


def test_the_room_of_a_row_does_not_shrink_by_the_demonstrations(tiny_model_dir: Path) -> None:
    row = example("Say four.", "The answer is four. " * 12)
    for most in (60, 400):
        aligned = fitted(tiny_model_dir, own(4), max_length=most).score(row)
        plain = Perplexity(model=str(tiny_model_dir), max_length=most).score(row)
        assert isinstance(aligned, dict)
        assert isinstance(plain, dict)
        assert (aligned["content_tokens"], aligned["truncated"]) == (plain["content_tokens"], plain["truncated"])


def test_normalise_holds_for_the_demonstrations_too(tiny_model_dir: Path) -> None:
    marked = [
        example(f"What is {n} + 1?", f"It is <<{n}+1={n + 1}>>{n + 1}.", source="own", gold=str(n + 1), row=n) for n in range(4)
    ]
    one = fitted(tiny_model_dir, marked, normalise=["calculator_marks"])
    texts = [turn["content"] for turn in one._prefixed(OTHER, one._shown_to(OTHER), is_chat=True).messages]
    assert not any("<<" in text for text in texts)


# As a part of a run


def recipe(folder: Path, parameters: str) -> Path:
    step = "keep: {field: self_aligned.content_nll, lowest: 50%}"
    return recipe_file(folder / "r.yaml", [step], filters=f"{{self_aligned: {{model: target{parameters}}}}}")


def test_a_recipe_that_names_no_source_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", chat_template=CHAT_TEMPLATE)
    done = curate("--recipe", recipe(tmp_path, ""), tmp_path / "absent.jsonl", "--model", folder, "--out", tmp_path / "out")
    assert done.code == 2
    assert "`own` is not set" in done.err
    assert "self_aligned: {model: target, own: my-model}" in done.err
    assert not (tmp_path / "out").exists()


def test_a_run_stores_which_rows_were_shown(tmp_path: Path, tiny_model_dir: Path) -> None:
    records = [
        {"prompt": row.prompt_text, "response": row.completion, "source": row.source, "gold": row.gold} for row in own(8)
    ] + [
        {"prompt": f"What is {n} + 1?", "response": f"One more than {n}.", "source": "human", "gold": str(n + 1)}
        for n in range(8)
    ]
    data, chosen, out = write_rows(tmp_path / "d.jsonl", records), recipe(tmp_path, ", own: own"), tmp_path / "out"
    result = run(chosen, data, model=str(tiny_model_dir), out=out)
    assert result.report.kept == 8
    (store,) = load_annotations(out).stores
    assert len(store.findings["demonstrations"]) == 3
    assert store.findings["prefix_tokens"] > 10
    assert all(records[row]["source"] == "own" for row in store.findings["demonstrations"])
    assert json.loads((store.folder / "plan.json").read_text())["settings"]["conversational"] is True
    again = curate("select", out, "--recipe", chosen)
    assert again.code == 0, again.err
    assert run(chosen, data, model=str(tiny_model_dir), out=out).report.kept == 8
