import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.filters.loops import is_loop


def looping(text: str, *, copies: int = 3, fewest_words: int = 12, longest_period: int = 40) -> bool:
    return is_loop(text.split(), copies=copies, fewest_words=fewest_words, longest_period=longest_period)


def test_copies_in_a_row_are_a_loop() -> None:
    assert looping("827 ends in 7. " * 3)
    assert looping("He said so. And then it went on " + "and on and on " * 6)
    assert looping("no " * 12)


def test_emphasis_a_refrain_and_two_copies_are_no_loop() -> None:
    assert not looping("very very very very long indeed")
    assert not looping("we sing this line again and again " * 2)
    assert not looping(" ".join(f"verse {n} says something new here and then comes the same old refrain" for n in range(9)))


@pytest.mark.parametrize(("period", "found"), [(40, True), (41, False)])
def test_a_longer_run_than_the_longest_period_is_not_seen(period: int, found: bool) -> None:
    assert (
        looping(" ".join(f"w{n}" for n in range(period)) + " " + " ".join(f"w{n % period}" for n in range(3 * period))) is found
    )


@given(st.lists(st.sampled_from("ab"), max_size=40), st.integers(2, 4), st.integers(1, 14))
def test_agrees_with_the_definition(words: list[str], copies: int, fewest_words: int) -> None:
    def stands(start: int, period: int) -> bool:
        times = max(copies, -(-fewest_words // period))
        run = words[start : start + period]
        return words[start : start + times * period] == run * times

    expected = any(stands(start, period) for period in range(1, len(words) + 1) for start in range(len(words)))
    assert is_loop(words, copies=copies, fewest_words=fewest_words, longest_period=100) == expected
