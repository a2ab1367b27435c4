import threading
import time

import pytest

from curate.filters.answers import read_answer
from curate.filters.formulas import formula_of, same_formula


@pytest.mark.parametrize(
    ("gold", "answer", "is_right"),
    [
        (r"3\sqrt{2}", r"Final Answer: $\sqrt{18}$", True),
        ("2√3", r"so \boxed{2\sqrt{3}}", True),
        ("2√3", r"so \boxed{3\sqrt{2}}", False),
        ("x^2+2x+1", "Final Answer: (x+1)^2", True),
        ("[0,1)", "Final Answer: [0, 1)", True),
        ("[0,1)", "Final Answer: [0, 1]", False),
        (r"\{1,2\}", r"Answer: $\{2, 1\}$", True),
        (r"2\pi", "Final Answer: 6.28", True),
        (r"2\pi", "Final Answer: 6.3", False),
        ("x = 5", "Final Answer: 5", True),
        (r"\frac{a+1}{2}", "Final Answer: (a+1)/2", True),
        ("4", r"Final Answer: $\sqrt{16}$", True),
        ("4", r"Final Answer: $\sqrt{9}$", False),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"Answer: \begin{bmatrix}1&2\\3&4\end{bmatrix}", True),
        (r"3\sqrt{2}", "Final Answer: the cat", None),
        (r"3\sqrt{2}", "It is hard to say.", None),
        ("(3,4)", "Final Answer: (4,3)", None),  # interval or point?
    ],
)
def test_formulas_are_compared_by_value(gold: str, answer: str, is_right: bool | None) -> None:
    assert read_answer(answer, gold).is_right is is_right


@pytest.mark.parametrize(
    "text", ["New York, NY", "2020-10-11", "1-2", "C++", "5 apples", "the cat (black, white)", "", "a = b or c"]
)
def test_other_text_is_no_formula(text: str) -> None:
    assert formula_of(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "9^{9^{9^9}}",
        "9^9^9^9",
        "(((9^99)^6)^6)",
        "100!",
        "((a+b+c+d+x+y+z)^6+t)^6",
        "x^" + "9" * 50,
        "(" * 60 + "x^2" + ")" * 60,
        "9**9**9",
        r"\cos((\frac{99+x^9-n}{n})^9)",
        r"\sqrt{x^9}=y+(123456789)^9",
        r"\frac{z}{\cos(\tan(z)+x^9)}=99",
        r"\sqrt{2+" * 9 + "}" * 9,
        "x^2+" * 1_000,
    ],
)
def test_what_could_be_slow_is_not_compared(text: str) -> None:
    assert formula_of(text) is None
    start = time.perf_counter()
    assert read_answer(f"Final Answer: {text}", r"3\sqrt{2}").is_right is not True
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("one", "other"),
    [("9^{99}", r"\log(123456789)"), ("z=123456789", r"\log(x)"), (r"\sqrt{99}", r"(1+9^{99})(\ln(\ln(9^{99})))")],
)
def test_logarithms_beside_large_numbers_are_not_compared(one: str, other: str) -> None:
    start = time.perf_counter()
    assert same_formula(one, other) is None
    assert time.perf_counter() - start < 5
    assert same_formula(r"\ln(8)", r"3\ln(2)") is True


def test_formulas_are_compared_in_threads_too() -> None:
    found: list[bool | None] = []
    thread = threading.Thread(target=lambda: found.append(same_formula(r"\frac{1}{7}", r"\frac{2}{14}")))
    thread.start()
    thread.join()
    assert found == [True]
