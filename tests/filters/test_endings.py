import pytest

from curate.filters.endings import is_cut_off


@pytest.mark.parametrize(
    "text",
    [
        "Here is the code:\n```python\nprint(1)",
        "She has 3 apples and",
        "So 4 -",
        "The total is 48 + 24 =",
        "We need (12 x 3",
        "First, 48/2 = <<48/2",
        "There are three colours:",
        "red, green,",
        "Final Answer:",
        "He bought bread. Then he walked home and told his brother about",
        "It rained a lot. The people stayed at home all day long",
        "Step 1: Look at what is asked.\nStep 2: Add.\nS",
        "Step 1: Look at what is asked.\nStep 2",
    ],
)
def test_a_text_that_stops_in_the_middle(text: str) -> None:
    assert is_cut_off(text)


@pytest.mark.parametrize(
    "text",
    [
        "42",
        "Final Answer: 72",
        "It begins with i.\nAnswer: i",
        "Think about it first.\nFinal Answer: (4) because",
        "Paris",
        "He walked home.",
        'He said: "Stop!"',
        "1. tea\n2. coffee\n3. cold water",
        "```python\nprint(1)\n```",
        "def f(x):\n    return x",
        "int main() { return 0; }",
        "I hope to hear from you. Yours sincerely, Jane Austen",
        "Have fun! 🎉",
        "Is it raining?",
        "答えは五です。",
        "",
        "  \n",
    ],
)
def test_a_text_that_is_complete(text: str) -> None:
    assert not is_cut_off(text)
