"""Columns -> prompt and completion: detected, said by the user, or refused with what to say."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import LayoutError, UsageError
from curate.examples import Example, Refused, load_examples, parse_columns
from curate.examples.detection import TARGETS, detect
from curate.examples.layouts import as_fact
from curate.examples.turns import ROLES

CHAT = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}]
SHAREGPT = [{"from": "human", "value": "p"}, {"from": "gpt", "value": "r"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "p"}]}, {"role": "assistant", "content": ["r"]}]


def only(row: dict[str, Any], **options: Any) -> Example:
    (example,) = load_examples([row], **options)
    return example


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"messages": CHAT}, "messages"),
        ({"messages": PARTS}, "messages"),
        ({"messages": '[{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}]'}, "messages"),
        ({"conversations": SHAREGPT}, "conversations"),
        ({"conversation": CHAT}, "conversation"),
        ({"prompt": "p", "completion": "r"}, "prompt/completion"),
        ({"prompt": "p", "response": "r"}, "prompt/response"),
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, "prompt/completion"),
        ({"prompt": CHAT[:1], "response": "r"}, "prompt/response"),
        ({"instruction": "p", "output": "r"}, "instruction/output"),
        ({"instruction": "p", "response": "r"}, "instruction/response"),
        ({"question": "p", "answer": "r"}, "question/answer"),
        ({"Prompt ": "p", "RESPONSE": "r"}, "Prompt /RESPONSE"),
    ],
)
def test_every_layout_gives_prompt_and_completion(row: dict[str, Any], name: str) -> None:
    examples = load_examples([row])
    assert examples.layout.name == name
    (example,) = examples
    assert (example.prompt_text, example.completion) == ("p", "r")
    assert example.extra == {}


def test_alpaca_joins_instruction_and_input_by_a_blank_line() -> None:
    rows: list[dict[str, Any]] = [
        {"instruction": "i", "input": "in", "output": "o"},
        {"instruction": "i", "input": "", "output": "o"},
    ]
    rows += [{"instruction": "i", "input": None, "output": "o"}, {"instruction": "i", "output": "o"}]
    assert [example.prompt_text for example in load_examples(rows)] == ["i\n\nin", "i", "i", "i"]


def test_dolly_joins_its_context() -> None:
    assert only({"instruction": "i", "context": "c", "response": "r", "category": "x"}).prompt_text == "i\n\nc"


def test_text_is_kept_to_the_last_blank() -> None:
    assert only({"prompt": " p\r\n", "response": "\tr \n"}).prompt_text == " p\r\n"
    assert only({"prompt": " p\r\n", "response": "\tr \n"}).completion == "\tr \n"


def test_a_system_column_becomes_the_first_turn_where_it_is_surely_one() -> None:
    row = {"system_prompt": "be brief", "question": "q", "response": "r"}
    assert [message["role"] for message in only(row).messages] == ["system", "user", "assistant"]
    assert only({"system": "be brief", "conversations": SHAREGPT}).messages[0] == {"role": "system", "content": "be brief"}
    # Beside a prompt, `system` may as well name the system that answered.
    row = {"system": "GPT-4", "prompt": "p", "response": "r"}
    assert only(row).extra == {"system": "GPT-4"}
    assert "--columns system=system" in load_examples([row]).notices[0]
    assert only(row, columns={"system": "system"}).messages[0] == {"role": "system", "content": "GPT-4"}
    assert load_examples([row], columns={"system": "system"}).notices == []


def test_earlier_turns_are_the_prompt() -> None:
    example = only({"messages": [*CHAT, *CHAT]})
    assert [message["role"] for message in example.prompt] == ["user", "assistant", "user"]


@pytest.mark.parametrize(("name", "role"), ROLES.items())
def test_roles_are_known_in_any_case(name: str, role: str) -> None:
    turns = [{"from": name.title(), "value": "x"}, *SHAREGPT]
    assert only({"conversations": turns}).messages[0]["role"] == role


def test_metadata_is_found_by_name_and_everything_else_travels_along() -> None:
    row = {"prompt": "p", "response": "r", "uid": 7, "generator": "gpt-4", "gold_answer": 42.0, "tests": ["assert f()"]}
    example = only({**row, "score": 0.5, "nested": {"a": [1]}})
    assert (example.id, example.source, example.gold, example.tests) == ("7", "gpt-4", "42.0", ["assert f()"])
    assert example.extra == {"score": 0.5, "nested": {"a": [1]}}


def test_the_first_name_that_a_row_has_is_its_source() -> None:
    example = only({"prompt": "p", "response": "r", "model": "judge", "source": "human"})
    assert (example.source, example.extra) == ("human", {"model": "judge"})


def test_metadata_that_first_appears_late_is_found() -> None:
    rows: list[dict[str, Any]] = [{"prompt": "p", "response": "r"}] * 500
    rows.append({"prompt": "p", "response": "r", "source": "human"})
    assert list(load_examples(rows))[-1].source == "human"


def test_a_mapped_column_that_first_appears_late_is_found() -> None:
    rows: list[dict[str, Any]] = [{"prompt": "p", "response": "r"}] * 500
    rows.append({"prompt": "p", "response": "r", "corrected": "5"})
    assert list(load_examples(rows, columns={"gold": "corrected"}))[-1].gold == "5"
    with pytest.raises(LayoutError, match="no column 'korrected'"):
        load_examples(rows, columns={"gold": "korrected"})


def test_metadata_of_another_type_stays_a_column_unless_it_was_mapped() -> None:
    row = {"prompt": "p", "response": "r", "source": {"name": "x"}, "gold": ["a", "b"], "tests": [1]}
    assert only(row).extra == {"source": {"name": "x"}, "gold": ["a", "b"], "tests": [1]}
    (refused,) = [item for item in load_examples([row], columns={"source": "source"}).records() if isinstance(item, Refused)]
    assert refused.reason == "type"


@pytest.mark.parametrize(
    ("value", "text"), [(42, "42"), (42.0, "42.0"), (True, "true"), ("", None), (None, None), (float("nan"), None), ([1], None)]
)
def test_scalars_become_their_json_text(value: Any, text: str | None) -> None:
    assert as_fact(value) == text


def test_group_only_by_mapping() -> None:
    row = {"prompt": "p", "response": "r", "group": "g"}
    assert only(row).group is None
    assert only(row, columns={"group": "group"}).prompt_key == "g"


def test_mapping_wins_over_detection() -> None:
    row = {"instruction": "i", "input": "in", "output": "o", "text": "t"}
    example = only(row, columns={"prompt": "instruction", "completion": "text"})
    assert (example.prompt_text, example.completion) == ("i", "t")
    assert example.extra == {"input": "in", "output": "o"}
    assert only(row, columns={"prompt": "input+instruction", "completion": "output"}).prompt_text == "in\n\ni"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": "p", "text": "t"},
            "no known layout; columns found: 'prompt', 'text'. .* --columns prompt=prompt,completion=text",
        ),
        ({"a": 1}, "no known layout; columns found: 'a'"),
        ({}, "columns found: none"),
        (
            {"prompt": "p", "completion": "a", "response": "b"},
            "2 layouts fit.*completion=completion or --columns prompt=prompt,completion=response",
        ),
        ({"messages": CHAT, "prompt": "p", "completion": "r"}, "2 layouts fit.*--columns messages=messages or"),
        ({"question": "q", "context": "c", "answer": "a"}, "3 layouts fit.*prompt=context\\+question,completion=answer"),
        ({"messages": 3}, "no known layout"),
    ],
)
def test_unknown_and_ambiguous_layouts_say_what_to_say(row: dict[str, Any], message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        load_examples([row])


def test_a_prompt_column_beside_messages_is_no_second_layout() -> None:
    example = only({"prompt": "p", "prompt_id": "1", "messages": CHAT})
    assert example.extra == {"prompt": "p", "prompt_id": "1"}


def test_parse_columns() -> None:
    assert parse_columns("prompt=instruction, completion=output") == {"prompt": "instruction", "completion": "output"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("promt=a,completion=b", "unknown target 'promt'; did you mean 'prompt'"),
        ("prompt", "is not target=column"),
        ("prompt=", "is not target=column"),
        ("prompt=a", "completion is missing"),
        ("messages=a,prompt=b,completion=c", "messages holds prompt and completion both"),
        ("id=a,id=b", "given twice"),
    ],
)
def test_a_mapping_that_cannot_be_meant_is_a_usage_error(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_columns(text)


def test_describe_names_what_is_used_and_what_is_carried() -> None:
    text = load_examples([{"prompt": "p", "response": "r", "source": "human", "x": 1}]).describe()
    assert [line.split() for line in text.splitlines()[1:]] == [
        ["prompt", "prompt"],
        ["completion", "response"],
        ["source", "source"],
        ["carried", "x"],
    ]


@pytest.mark.parametrize(
    ("row", "is_conversational"),
    [({"messages": CHAT}, True), ({"prompt": CHAT[:1], "response": "r"}, True), ({"prompt": "p", "response": "r"}, False)],
)
def test_conversational_layouts_hold_turns(row: dict[str, Any], is_conversational: bool) -> None:
    assert load_examples([row]).layout.is_conversational is is_conversational


values = (
    st.none()
    | st.text(max_size=5)
    | st.integers()
    | st.lists(st.fixed_dictionaries({"role": st.text(max_size=9), "content": st.none() | st.text(max_size=3)}), max_size=3)
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("messages", "prompt", "response", *TARGETS), values)))
def test_no_row_raises(row: dict[str, Any]) -> None:
    chat = detect([{"messages": CHAT}])
    pair = detect([{"prompt": "p", "response": "r", "system_prompt": "s"}])
    for layout in (chat, pair):
        assert isinstance(layout.example(row, 0, "here"), Example | Refused)
