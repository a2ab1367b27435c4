"""Says whether a text was decoded with the wrong encoding."""

from curate.filters.limits import head


def is_mojibake(text: str) -> bool:
    """Whether a text holds what bytes of one encoding look like in another (`donâ€™t`), or U+FFFD, where bytes were lost.

    ftfy's rule for suspicious sequences decides, and only where ftfy also knows what the text should have been.
    """
    text = head(text)
    if text.isascii():
        return False
    if "\ufffd" in text:
        return True
    from ftfy import fix_encoding
    from ftfy.badness import is_bad

    return any(is_bad(line) and fix_encoding(line) != line for line in text.splitlines())
