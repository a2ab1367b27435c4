import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from curate.errors import UsageError
from curate.reference import model_path, sample_path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
import make_sample
from tasks import final_answer, reference_style

SPLITS = ("train", "validation", "test")
ANSWERED = (None, "near_copy", "meta_talk")


def rows(split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sample_path(split).read_text(encoding="utf-8").splitlines()]


def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_path(), local_files_only=True)


def test_unknown_split_names_the_near_miss() -> None:
    with pytest.raises(UsageError, match="did you mean 'validation'"):
        sample_path("validaton")


def test_generator_gives_the_packaged_bytes() -> None:
    for name, content in make_sample.sample_files().items():
        assert (sample_path().parent / name).read_bytes() == content, f"{name}: run scripts/make_sample.py"


def test_another_seed_gives_another_sample() -> None:
    assert make_sample.sample_files(1) != make_sample.sample_files(2)


def test_no_prompt_stands_in_two_splits() -> None:
    prompts = [{row["prompt"] for row in rows(split)} for split in SPLITS]
    assert len(set().union(*prompts)) == sum(map(len, prompts))


@pytest.mark.parametrize("split", SPLITS)
def test_questions_come_from_their_own_hash_split_and_so_never_from_pretraining(split: Any) -> None:
    drawn = make_sample.draw_questions(split, make_sample.SEED)
    assert {question.split for question in drawn} == {split}
    assert {question.prompt for question in drawn} == {row["prompt"] for row in rows(split)}


def test_each_prompt_is_answered_once_by_each_of_four_sources() -> None:
    sources: dict[str, list[str]] = defaultdict(list)
    for row in rows("train"):
        sources[row["prompt"]].append(row["source"])
    assert all(sorted(found) == sorted(make_sample.DEFECT_RATES) and len(found) == 4 for found in sources.values())


def test_every_kind_of_defect_is_planted_and_mostly_in_the_careless_source() -> None:
    defects = Counter(row["defect"] for row in rows("train") if row["defect"])
    assert set(defects) == {"wrong_arithmetic", "wrong_answer", "cut_off", "loop", "near_copy", "meta_talk"}
    careless = sum(row["source"] == "careless" for row in rows("train") if row["defect"])
    assert defects.total() / 2 < careless < defects.total()


def test_rows_labelled_wrong_end_in_a_wrong_answer_and_all_other_answers_are_gold() -> None:
    for row in rows("train"):
        if (row["defect"] or "").startswith("wrong_"):
            assert final_answer(row["response"]) != row["gold"], row["id"]
        elif row["defect"] in ANSWERED:
            assert final_answer(row["response"]) == row["gold"], row["id"]


def test_cut_off_rows_and_loops_never_reach_an_answer() -> None:
    broken = [row for row in rows("train") if row["defect"] in ("cut_off", "loop")]
    assert all("Answer:" not in row["response"] for row in broken)


def test_loops_say_one_sentence_at_least_three_times() -> None:
    for row in rows("train"):
        if row["defect"] == "loop":
            assert row["response"].count(row["response"].split(".")[0]) >= 3


def test_near_copies_differ_from_the_reference_style_in_marks_only() -> None:
    reference = {q.prompt: reference_style(q) for q in make_sample.draw_questions("train", make_sample.SEED)}
    for row in rows("train"):
        if row["defect"] == "near_copy":
            copied = reference[row["prompt"]]
            assert row["response"] != copied
            assert row["response"].removeprefix("So ").translate(str.maketrans("", "", ".! ")) == copied.translate(
                str.maketrans("", "", ".! ")
            )


def test_references_of_the_evaluation_splits_end_in_gold() -> None:
    assert all(final_answer(row["reference"]) == row["gold"] for split in SPLITS[1:] for row in rows(split))


@pytest.mark.parametrize(
    ("text", "answer"),
    [("12 + 1 = 13.\nFinal Answer: 13", "13"), ("It is odd.\nAnswer: odd.", "odd"), ("so 3 or 4", "4"), ("no idea", None)],
)
def test_final_answer_stands_after_the_marker_or_is_the_last_number(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


def test_model_loads_offline_in_float32_and_is_small() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path(), local_files_only=True)
    assert model.dtype == torch.float32
    assert 2_000_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 6_000_000
    assert sum(file.stat().st_size for file in model_path().iterdir()) <= 12_000_000


def test_chat_template_masks_exactly_the_completion() -> None:
    tok = tokenizer()
    chat = [{"role": "user", "content": "Is 7 odd or even?"}, {"role": "assistant", "content": "Answer: odd"}]
    encoded = tok.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    masked = [token for token, is_masked in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if is_masked]
    assert tok.decode(masked) == "Answer: odd<|im_end|>"


def test_rows_have_at_most_about_80_tokens() -> None:
    tok = tokenizer()
    chats = [[{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r["response"]}] for r in rows("train")]
    lengths = [len(ids) for ids in tok.apply_chat_template(chats, return_dict=False)]
    assert max(lengths) <= 110
    assert sum(length <= 80 for length in lengths) / len(lengths) > 0.9


def test_digits_are_tokens_of_their_own() -> None:
    tok = tokenizer()
    assert [tok.decode([token]) for token in tok("2048")["input_ids"]] == list("2048")
