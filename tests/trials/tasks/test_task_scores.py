"""Scores with known answers, for every kind of task."""

import math
from pathlib import Path
from typing import Any

import pytest
from workshop import write_rows

from curate.errors import ModelError, SandboxError, UsageError
from curate.sandbox import levels, open_sandbox
from curate.trials.tasks import Generation, Outcome, Task, TranslationTask, aggregate, check_machine, load_task, sample_task
from curate.trials.tasks import score as score_texts
from curate.trials.tasks import score_choices as score_likelihoods
from curate.trials.tasks.readings import cut_at
from curate.trials.tasks.squad import exact_match, f1, squad_words

OPTIONS = "Pick one:\n(1): cake\n(2): tea\n"


def task_of(folder: Path, kind: str, row: dict[str, Any], **settings: Any) -> Task:
    write_rows(folder / "rows.jsonl", [{"prompt": "p", **row}])
    return load_task({"name": "x", "kind": kind, "data": "rows.jsonl", **settings}, folder=folder)


def score(task: Task, *texts: str, is_cut_off: bool = False) -> list[Outcome]:
    items = list(task.items()) * len(texts)
    return score_texts(task, items, [Generation(text, 9, is_cut_off) for text in texts])


def verdict(task: Task, text: str) -> tuple[float, float]:
    (outcome,) = score(task, text)
    return outcome.strict, outcome.lenient


@pytest.mark.parametrize(
    ("gold", "text", "mark", "scores"),
    [
        ("92", "90 + 2 = 92.\nFinal Answer: 92", "Final Answer:", (1, 1)),
        ("92", "90 + 2 = 92.\nAnswer: 92", "Final Answer:", (0, 1)),
        ("92", "90 + 2 = 92.\nAnswer: 92", "Answer:", (1, 1)),
        ("92", "Answer: 92\nAnswer: 93", "Answer:", (0, 0)),
        ("92", "So 92.", "Answer:", (0, 1)),
        ("92", "so 92\n#### 92", "####", (1, 1)),
        ("92", "#### 92\nFinal Answer: 7", "####", (0, 0)),
        ("1,080", "Antwort: $1080.00", "Antwort:", (1, 1)),
        ("92", "92", None, (1, 1)),
        ("92", "", "Answer:", (0, 0)),
        ("92", "Answer:", "Answer:", (0, 0)),
        ("even", "Answer: Even.", "Answer:", (1, 1)),
        ("even", "Answer: odd", "Answer:", (0, 0)),
        ("yes", "Answer: Yes, it is.", "Answer:", (1, 1)),
        ("New York", "Answer: new york", "Answer:", (1, 1)),
        ("New York", "Answer: Los Angeles", "Answer:", (0, 0)),
        (["NYC", "New York"], "Answer: New York", "Answer:", (1, 1)),
        (r"3\sqrt{2}", r"Final Answer: $3\sqrt{2}$", "Final Answer:", (1, 1)),
        (r"3\sqrt{2}", r"Final Answer: $\sqrt{18}$", "Final Answer:", (0, 1)),
    ],
)
def test_answers_are_read_strictly_and_leniently(
    tmp_path: Path, gold: Any, text: str, mark: str | None, scores: tuple[int, int]
) -> None:
    assert verdict(task_of(tmp_path, "answer", {"gold": gold}, mark=mark), text) == scores


def test_an_option_is_read_by_label_or_text(tmp_path: Path) -> None:
    task = task_of(tmp_path, "answer", {"prompt": OPTIONS, "gold": "2"}, mark="Answer:")
    assert [verdict(task, text) for text in ("Answer: (2)", "Answer: tea", "Answer: 1")] == [(1, 1), (1, 1), (0, 0)]


def test_an_outcome_says_what_was_read_and_why(tmp_path: Path) -> None:
    task = task_of(tmp_path, "answer", {"gold": "92"}, mark="Answer:")
    (outcome,) = score(task, "I think 92", is_cut_off=True)
    assert (outcome.is_read, outcome.answer) == (True, "92")
    assert outcome.detail == "gold '92'; the mark 'Answer:' is missing; cut off after 9 tokens"
    (nothing,) = score(task, "no idea")
    assert (nothing.is_read, nothing.answer) == (False, None)


def test_a_stop_ends_the_answer(tmp_path: Path) -> None:
    assert cut_at("a\nb\n\nc", ["\n\n", "b"]) == "a\n"
    task = task_of(tmp_path, "answer", {"gold": "2"}, mark="Answer:", stop="\n\n")
    assert verdict(task, "Answer: 2\n\nAnswer: 3") == (1, 1)


def test_references_of_the_sample_are_right() -> None:
    task = sample_task()
    items = task.items()
    outcomes = score_texts(task, items, [Generation(item.reference or "", 9, False) for item in items])
    assert {(outcome.strict, outcome.lenient) for outcome in outcomes} == {(1.0, 1.0)}


def test_the_highest_sum_is_strict_and_the_highest_per_character_lenient(tmp_path: Path) -> None:
    task = task_of(tmp_path, "choice", {"choices": ["no", "certainly"], "gold": 1})
    (outcome,) = score_likelihoods(task, task.items(), [[(-4.0, 2), (-9.0, 9)]])
    assert (outcome.strict, outcome.lenient, outcome.answer) == (0, 1, "certainly")
    assert score_likelihoods(task, task.items(), [[(-4.0, 2), (-3.0, 9)]])[0].strict == 1


def test_an_option_listed_twice_is_right_twice(tmp_path: Path) -> None:
    task = task_of(tmp_path, "choice", {"choices": ["yes", "no", "yes"], "gold": 2})
    assert score_likelihoods(task, task.items(), [[(-1.0, 3), (-2.0, 2), (-1.0, 3)]])[0].strict == 1


def test_a_likelihood_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    task = task_of(tmp_path, "choice", {"choices": ["yes", "no"], "gold": 0})
    with pytest.raises(ModelError, match=r"rows.jsonl:1: the model gives an option the log-likelihood nan"):
        score_likelihoods(task, task.items(), [[(math.nan, 3), (-2.0, 2)]])


def test_only_choices_have_likelihoods(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only a choice task has options"):
        score_likelihoods(sample_task(), [], [])
    with pytest.raises(UsageError, match="nothing is generated"):
        score(task_of(tmp_path, "choice", {"choices": ["yes", "no"], "gold": 0}), "yes")


@pytest.mark.parametrize(
    ("answer", "gold", "em", "overlap"),
    [
        ("The Denver Broncos!", "Denver Broncos", 1, 1),
        ("Denver", "Denver Broncos", 0, 2 / 3),
        ("in the city of Denver, Colorado", "Denver", 0, 1 / 3),
        ("Rome", "Denver", 0, 0),
        ("the cat cat", "cat", 0, 2 / 3),
        ("The", "a", 1, 1),
        ("the", "cat", 0, 0),
    ],
)
def test_squad_counts_words(answer: str, gold: str, em: float, overlap: float) -> None:
    assert exact_match(answer, gold) == em
    assert f1(answer, gold) == pytest.approx(overlap)


def test_squad_normalises_as_the_official_script() -> None:
    assert squad_words("The  U.S.'s an-other a\n24–10") == ["uss", "another", "24–10"]


def test_squad_takes_the_best_wording_of_the_first_line(tmp_path: Path) -> None:
    task = task_of(tmp_path, "squad", {"gold": ["Denver Broncos", "the Broncos"]})
    first, second, empty = score(task, "\n Broncos \nQuestion: x", "Sure.\nAnswer: Denver Broncos", " ")
    assert (first.strict, first.lenient, first.answer) == (1, 1, "Broncos")
    assert (second.strict, second.lenient) == (0, 1)
    assert (empty.strict, empty.lenient, empty.is_read) == (0, 0, False)
    assert task.items()[0].reference == "Denver Broncos"


def test_squad_may_ask_for_a_mark_and_exact_match(tmp_path: Path) -> None:
    task = task_of(tmp_path, "squad", {"gold": "Denver Broncos"}, mark="A:", metric="em")
    assert [verdict(task, text) for text in ("x\nA: Denver Broncos\ny", "Denver Broncos", "A: Denver")] == [
        (1, 1),
        (0, 1),
        (0, 0),
    ]
    items = list(task.items()) * 2
    found = aggregate(task, items, [Generation("A: Denver Broncos", 3, False), Generation("A: Denver", 3, False)])
    assert found == {"em": 0.5, "f1": pytest.approx((1 + 2 / 3) / 2)}


def test_translations_equal_to_a_reference_score_one_and_disjoint_ones_nothing(tmp_path: Path) -> None:
    for metric in ("chrf", "bleu"):
        task = task_of(tmp_path, "translation", {"reference": ["Good day to you all", "Hello"]}, target="en", metric=metric)
        same, other, nothing = score(task, "Good day to you all", "QQQ", "")
        assert same.strict == pytest.approx(1)
        assert (other.strict, nothing.strict) == (0, 0)
        assert (other.is_read, nothing.is_read) == (True, False)


def test_translations_are_scored_as_sacrebleu_does(tmp_path: Path) -> None:
    from sacrebleu import corpus_bleu, corpus_chrf, sentence_bleu, sentence_chrf

    gold, text = "The cat sat on the mat, and slept.", "A cat sat on the mat and slept."
    row = {"reference": gold}
    chrf, bleu = (task_of(tmp_path, "translation", row, target="en", metric=metric) for metric in ("chrf", "bleu"))
    assert score(chrf, text)[0].strict == pytest.approx(sentence_chrf(text, [gold]).score / 100)
    assert score(bleu, text)[0].strict == pytest.approx(sentence_bleu(text, [gold]).score / 100)
    found = aggregate(bleu, bleu.items(), [Generation(text, 9, False)])
    assert found["bleu"] == pytest.approx(corpus_bleu([text], [[gold]]).score)
    assert found["chrf"] == pytest.approx(corpus_chrf([text], [[gold]]).score)
    signatures = bleu.signatures(bleu.items())
    assert signatures["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert signatures["chrf"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


def test_items_may_have_different_numbers_of_references(tmp_path: Path) -> None:
    write_rows(
        tmp_path / "r.jsonl", [{"prompt": "a", "reference": ["one two", "three four"]}, {"prompt": "b", "reference": "five"}]
    )
    task = load_task({"name": "x", "kind": "translation", "data": "r.jsonl", "target": "en"}, folder=tmp_path)
    found = aggregate(task, task.items(), [Generation("three four", 2, False), Generation("five", 1, False)])
    assert found["chrf"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("target", "tokenizer"), [("en", "13a"), ("zh-CN", "zh"), ("ja", "char"), ("TH", "char"), ("de_DE", "13a")]
)
def test_the_target_language_divides_words_without_a_download(tmp_path: Path, target: str, tokenizer: str) -> None:
    task = task_of(tmp_path, "translation", {"reference": "今日は良い天気です"}, target=target, metric="bleu")
    assert isinstance(task, TranslationTask)
    assert task.tokenizer == tokenizer
    assert score(task, "今日は良い天気です")[0].strict == pytest.approx(1)


def test_a_translation_may_have_a_mark(tmp_path: Path) -> None:
    task = task_of(tmp_path, "translation", {"reference": "Good day"}, target="en", mark="English:")
    assert verdict(task, "English: Good day") == pytest.approx((1, 1))
    assert verdict(task, "Good day") == pytest.approx((0, 1))


CODE = {"tests": ["assert f(1) == 2", "assert f(2) == 3"], "entry_point": "f", "code_prompt": "def f(x):"}


def test_code_passes_or_says_why_not(tmp_path: Path) -> None:
    task = task_of(tmp_path, "code", CODE)
    try:
        check_machine(task)
    except SandboxError as error:
        pytest.skip(f"no sandbox on this machine: {error}")
    fenced, body, wrong, broken, nothing = score(
        task,
        "So:\n```python\ndef f(x):\n    return x + 1\n```",
        "    return x + 1",
        "Final Answer:\n    return x",
        "I cannot do that.",
        "",
    )
    assert (fenced.strict, fenced.lenient, fenced.detail) == (1, 1, "passed")
    assert (body.strict, body.lenient) == (0, 1)
    assert (wrong.strict, wrong.lenient, wrong.detail) == (0, 0, "failed")
    assert (broken.lenient, broken.is_read, broken.detail) == (0, False, "syntax")
    assert (nothing.lenient, nothing.is_read, nothing.answer, nothing.detail) == (0, False, None, "no code")


def test_code_is_refused_where_nothing_isolates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(tmp_path, "code", CODE, timeout_s=7)
    monkeypatch.setattr(levels, "system_program", lambda name: None)
    open_sandbox.cache_clear()
    for refused in (lambda: check_machine(task), lambda: score(task, "    return x + 1")):
        with pytest.raises(SandboxError, match="task x: "):
            refused()
    check_machine(sample_task())
