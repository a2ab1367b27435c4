"""Any SFT layout becomes an Example."""

from curate.examples.detection import parse_columns
from curate.examples.example import Example, Message, Role, stable_hash
from curate.examples.layouts import Layout
from curate.examples.load import Examples, load_examples
from curate.examples.record import Refused

__all__ = [
    "Example",
    "Examples",
    "Layout",
    "Message",
    "Refused",
    "Role",
    "load_examples",
    "parse_columns",
    "stable_hash",
]
