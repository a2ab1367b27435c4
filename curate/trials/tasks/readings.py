"""What of a model's text is its answer."""

from collections.abc import Sequence

DEFAULT_MARK = "Final Answer:"


def cut_at(text: str, stops: Sequence[str]) -> str:
    """The text before the first of `stops`."""
    ends = [end for stop in stops if (end := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def after_mark(text: str, mark: str) -> str | None:
    """What follows the last occurrence of `mark`, letter by letter; None where it does not occur."""
    at = text.rfind(mark)
    return None if at < 0 else text[at + len(mark) :]


def first_line(text: str) -> str:
    """The first line that is not blank; empty where all are."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
