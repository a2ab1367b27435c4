import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.filters.arithmetic import false_statements, statements


@pytest.mark.parametrize(
    "text",
    [
        "14 + 4 = 17",
        "48/2 = <<48/2=25>>25 clips",
        "$15 x 8 + $45 = $164",
        "(2 + 3) × 4 = 21",
        "1,200 - 300 = 800 pages",
        r"so \( 24 \times 2 = 49 \)",
        r"\frac{1}{2} \times 48 = 23",
        "20% of 50 = 11",
        "10 / 3 = 3.43",
        "5 + 3 = 8, 8 - 2 = 5",
        "2 * 3 = 6 = 5 + 2",
        "3 hours x $12/hour = $35",
        "hmm 4 + 5 = 11 i guess",
        "- 7 boxes (small) + 2 boxes = 8 boxes",
    ],
)
def test_false_statement_is_found(text: str) -> None:
    assert false_statements(text) != []


@pytest.mark.parametrize(
    "text",
    [
        "14 + 4 = 18",
        "48/2 = <<48/2=24>>24 clips",
        "10 / 3 = 3.33",
        "2 / 3 = 0.66",
        "0.83 hours x 12 = 10",
        "5 + 3 = 8 x 2 = 16",
        "20% of 50 = 10",
        "15 / 20 x 100 = 75%",
        "100% - 20% = 80%",
        "500 + 10% = 550",
        "1 hour + 30 minutes = 90 minutes",
        "2 feet x 3 = 72 inches",
        "3 x $0.50 = 150 cents",
        "2 million + 3 million = 5 million",
        "17 / 5 = 3 remainder 2",
        "5(3) + (2)(4) = 23",
        "12/hour * 5 = 60",
        "2^3 = 8 and 2**3 = 8",
    ],
)
def test_true_statement_is_not_flagged(text: str) -> None:
    assert false_statements(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "2x - 5 = 16",
        "10 x - 10 = 40",
        "x + 3 = 5",
        "f(3) + 2 = 7",
        "4 months = $65 * 4",
        "half of 6 + 3 = 6",
        "0900 - 0130 = 0730 hours",
        "if a == 3 + 4: b = 5",
        "```\ntotal = 1 + 1 = 3\n```",
        "5 + 3 != 9, 5 + 3 <= 9",
        "Is 2 + 2 = 5?",
        "14, 400 / 80 = 180",
        "$95 - $100 = $5",
        "1 / 4 inch = 8 miles",
        "7 / 0 = 3",
        "2^999999999 = 5",
        "sqrt 16 + 2 = 6",
        "3:05 + 2 = 5:05",
    ],
)
def test_what_cannot_be_read_with_confidence_is_passed_over(text: str) -> None:
    assert false_statements(text) == []


@given(st.integers(1, 999), st.sampled_from("+-*/"), st.integers(1, 999))
def test_a_computed_result_is_true_and_a_shifted_one_false(left: int, sign: str, right: int) -> None:
    result = {"+": left + right, "-": left - right, "*": left * right, "/": left / right}[sign]
    assert [is_true for _, is_true in statements(f"We get {left} {sign} {right} = {result:.2f}.")] == [True]
    if result > 0:
        assert false_statements(f"We get {left} {sign} {right} = {result * 1.5 + 7:.2f}.") != []
