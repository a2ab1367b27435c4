import time
import warnings

import pytest

from curate.filters.syntax import is_broken_code


@pytest.mark.parametrize(
    ("text", "is_broken"),
    [
        ("```python\ndef f(x):\n    return x\n```", False),
        ("```python\ndef f(x)\n    return x\n```", True),
        ("```python\ndef f(x):\nreturn x\n```", True),
        ("Fine:\n```py\nx = 1\n```\nnot fine:\n```py\nx = (1\n```", True),
        ("  ```python\n  x = 1\n  ```", False),
        ("```python\n>>> f(1)\n2\n```", None),
        ("```python\n!pip install x\n```", None),
        ("```python\ndef f():\n    ...the rest as before\n```", None),
        ("```java\nint x = 1;\n```", None),
        ("def f(x)", None),
        ("", None),
    ],
)
def test_fenced_python_has_to_parse(text: str, is_broken: bool | None) -> None:
    assert is_broken_code(text, is_program=False) is is_broken


@pytest.mark.parametrize(
    ("text", "is_broken"),
    [
        ("def f(x):\n    return x", False),
        ("    if x:\n        return 1\n    return 2", False),
        ("Final Answer:\n    return x + 1\n", False),
        ("Final Answer:\n  return x", False),
        ("Final Answer:\n    x = 1\n  return x", True),
        ("Final Answer:\ndef f(x):\nreturn x", True),
        ("Sure, here it is:\n```\nreturn = 1\n```", True),
        ("Sure, here it is:\n```\nx = 1\n```", False),
        ("I cannot write this.", True),
    ],
)
def test_a_program_or_the_body_of_one_has_to_parse(text: str, is_broken: bool) -> None:
    assert is_broken_code(text, is_program=True) is is_broken


def test_code_is_never_run() -> None:
    assert is_broken_code("raise SystemExit(1)\nimport os\nos._exit(3)", is_program=True) is False


def test_escapes_that_python_warns_of_are_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_broken_code('x = "\\d"', is_program=True) is False


@pytest.mark.parametrize(
    "piece",
    [
        "(",
        "[",
        "{",
        "-",
        "not ",
        "lambda: ",
        "x.",
        "1+",
        "f(",
        "if x:\n",
        "a if b else ",
        "'",
        "\\\n",
        "f'{",
        "\x00",
        "\ud800",
        "**",
        "x=",
        "@",
        ":=",
    ],
)
@pytest.mark.parametrize("length", [300, 19_000, 300_000])
def test_hostile_code_is_judged_in_time(piece: str, length: int) -> None:
    start = time.perf_counter()
    is_broken_code(piece * (length // len(piece)) + "1", is_program=True)
    assert time.perf_counter() - start < 5
