"""Any SFT layout becomes an Example."""

from curate.examples.example import Example, Message, Role, stable_hash

__all__ = ["Example", "Message", "Role", "stable_hash"]
