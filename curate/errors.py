"""Everything a user can cause, as one tree; each class carries the exit code of the command line.

    CurateError                1  any other error, or a verdict gate that did not pass
    ├── UsageError             2  the command, an option or an argument is wrong
    │   └── RecipeError        2  a recipe is wrong: names the file, the key and the nearest valid word
    ├── InputError             3  the data cannot be read, or nothing is left of it
    │   └── LayoutError        3  the columns do not say what is prompt and what is completion
    ├── ResourceError          4  disk, memory or device gave out
    ├── ModelError             3  a model or tokenizer cannot be used as it is
    ├── SandboxError           5  untrusted code cannot be isolated here
    ├── NetworkError           6  the Hub cannot be reached
    └── IntegrityError         7  a stored file is not what was committed

130 is Ctrl-C. A message says what was found, where, and what to do. Bugs are not in the tree: they keep their traceback.
"""

import difflib
from collections.abc import Collection
from typing import ClassVar


class CurateError(Exception):
    """Base of all errors that a user can cause and act on."""

    exit_code: ClassVar[int] = 1


class UsageError(CurateError):
    """A command, option, argument or output folder that cannot be meant."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe that does not say what it should; the message names file, key and nearest valid word."""


class InputError(CurateError):
    """Data that is missing, unreadable, empty, or not what the run was begun with."""

    exit_code = 3


class LayoutError(InputError):
    """Columns from which no prompt and completion can be told; the message lists what was found."""


class ModelError(CurateError):
    """A model or tokenizer that is missing, unsafe to load, or inconsistent with itself."""

    exit_code = 3


class SandboxError(CurateError):
    """Untrusted code would have to run and nothing here isolates it; nothing was run."""

    exit_code = 5


class NetworkError(CurateError):
    """The Hub cannot be reached: offline, or the connection failed; the same command may succeed later."""

    exit_code = 6


class ResourceError(CurateError):
    """Disk, memory or a device gave out; what was committed before is intact."""

    exit_code = 4


class IntegrityError(CurateError):
    """A stored file differs from what was committed."""

    exit_code = 7


def near_miss(word: str, known: Collection[str], *, listing: str = "known") -> str:
    """`did you mean 'x'?` when a known word is close, else the list of known words."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"{listing}: {', '.join(sorted(known)) or 'none'}"
