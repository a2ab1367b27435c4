"""Runs programs that nobody vouches for, or refuses to.

A level of isolation (bubblewrap with limits inside, or the user's container engine) is taken only after a set of attacks has
failed in it on this machine. docs/sandbox.md says what is stopped and what is not.
"""

from curate.sandbox.levels import Container
from curate.sandbox.outcome import STATUSES, Job, Limits, Status, Verdict
from curate.sandbox.sandbox import Sandbox, available_cores, open_sandbox, undumpable

__all__ = [
    "STATUSES",
    "Container",
    "Job",
    "Limits",
    "Sandbox",
    "Status",
    "Verdict",
    "available_cores",
    "open_sandbox",
    "undumpable",
]
