import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.filters.answers import braced, marked_answers, read_answer, read_numbers, read_options, same_number, show

OPTIONS = "What is served in a mug?\n(1): cake\n(2): beer glass\n(3): glass\n(4): coffee\n\nwhat is the correct option?"
LETTERS = "Pick one.\nA) a cat\nB) a dog\nC) None of these"


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("Final Answer: 72", "72"),
        ("final answer : 1\nFINAL ANSWER: 2", "2"),
        ("**Final Answer:** 72 clips.", "72"),
        ("It costs 3.\n#### 1,080", "1080"),
        (r"so \boxed{\frac{3}{4}}", "3/4"),
        (r"Final Answer: $\boxed{42}$", "42"),
        ("Answer: $9.96", "9.96"),
        ("Final Answer: 42.0", "42"),
        ("Final Answer: -7 degrees", "-7"),
        ("Final Answer: 25%", "25%"),
        ("Final Answer: 2 1/2 cups", "5/2"),
        ("Final Answer: $960 + $240 = $1,200 worth", "1200"),
        ("Final Answer: It takes 5 hours to read 120 pages.", "5"),
        ("Final Answer: \n3 x 4 = 12 wheels\nTotal = 12 + 4 = 16 wheels.", "16"),
        ("Final Answer: 192 million", "192 million"),
        ("Final Answer: five", "5"),
        ("Final Answer: 3. Answer: 4", "4"),
        ("He has 3 apples and buys 4, so 7 in all.", "7"),
        ("There is no number here.", None),
    ],
)
def test_number_is_read_where_it_stands(completion: str, answer: str | None) -> None:
    assert read_answer(completion, "72").answer == answer


@pytest.mark.parametrize(
    ("gold", "completion", "is_right"),
    [
        ("1080", "Final Answer: 1,080", True),
        ("1,080", "Final Answer: 1", False),
        ("She ate 5.\n#### 5", "Final Answer: 5", True),
        ("0.25", "Final Answer: 25%", True),
        ("25", "Final Answer: 25%", True),
        ("25%", "Final Answer: 0.25%", False),
        ("1/3", "Final Answer: 0.33", True),
        ("10", "Final Answer: 9.96", False),
        ("$5", "Final Answer: 5 dollars", True),
        ("192000000", "Final Answer: $192 million", True),
        (r"\frac{1}{2}", "Final Answer: 0.5", True),
        ("5", "I do not know.", False),
        ("Paris", "Answer: paris.", True),
        ("Paris", "Answer: Rome", False),
        ("the United States", "Answer: USA", None),
        ("yes", "Yes, because it rains.", True),
        ("no", "Answer: yes", False),
        (None, "Final Answer: 5", None),
        ("", "Final Answer: 5", None),
    ],
)
def test_answer_is_compared_with_gold(gold: str | None, completion: str, is_right: bool | None) -> None:
    assert read_answer(completion, gold).is_right is is_right


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("Final Answer: 4", "4"),
        ("Final Answer: (4) coffee.", "4"),
        ("Final Answer: Option 4 - coffee", "4"),
        ("Final Answer: coffee", "4"),
        ("Final Answer: a beer glass", "2"),
        ("Based on this, the correct answer is (4): coffee.", "4"),
        ("Final Answer: None of the above.", None),
        ("Final Answer: 9", None),
        ("It is coffee.", None),
    ],
)
def test_option_is_read_by_label_or_text(completion: str, answer: str | None) -> None:
    reading = read_answer(completion, "4", OPTIONS)
    assert (reading.answer, reading.is_right) == (answer, answer == "4")


@pytest.mark.parametrize("gold", ["B", "(B)", "a dog", "b"])
@pytest.mark.parametrize(("completion", "is_right"), [("Answer: B", True), ("Answer: A dog barks", True), ("Answer: (A)", False)])
def test_lettered_options(gold: str, completion: str, is_right: bool) -> None:
    assert read_answer(completion, gold, LETTERS).is_right is is_right


def test_options_are_those_that_the_prompt_lists() -> None:
    assert read_options(OPTIONS) == {"1": "cake", "2": "beer glass", "3": "glass", "4": "coffee"}
    assert read_options("1. Only one line") == {}


def test_braces_must_balance() -> None:
    assert braced("{a{b}c}d") == "a{b}c"
    assert braced("{a{b}c") is None


def test_marked_answer_of_a_text_without_mark_is_none() -> None:
    assert marked_answers("It is 5.") == []


def test_ordinals_and_words_with_digits_are_no_numbers() -> None:
    assert [show(number) for number in read_numbers("the 3rd of B12 is 4, -5 and 1,000,000")] == ["4", "-5", "1000000"]


@given(st.integers(-(10**12), 10**12))
def test_every_written_integer_is_read_back(value: int) -> None:
    for text in (f"{value}", f"{value:,}", f"{value}.0"):
        (number,) = read_numbers(text)
        assert number.value == value
        assert same_number(number, number)
