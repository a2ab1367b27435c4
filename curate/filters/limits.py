"""How much of a text the regular expressions see: a bound on the work that one row can cause."""

MAX_CHARACTERS = 100_000
"""About 25,000 tokens, far above any row that fits a training context."""


def head(text: str) -> str:
    """The first 100,000 characters."""
    return text[:MAX_CHARACTERS]


def tail(text: str) -> str:
    """The last 100,000 characters."""
    return text[-MAX_CHARACTERS:]
