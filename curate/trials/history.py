"""How many trials a test set has judged: whoever tries twenty recipes on one test set will find one that helps."""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curate import progress


def history_path() -> Path:
    """The user's file of judged trials: `$XDG_STATE_HOME/curate/trials.jsonl`. It holds hashes and verdicts, no data."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "curate" / "trials.jsonl"


def judged_before(test_set: str, trial: str) -> int:
    """Other trials that this test set (identity of its items) has judged for this user, on this machine."""
    return len({entry["trial"] for entry in _entries() if entry.get("test_set") == test_set} - {trial})


def components_before(test_set: str, conditions: str) -> dict[str, Any] | None:
    """What the latest trial on this test set, of this model and training, measured of variances (`components`), and its name."""
    of_these = [entry for entry in _entries() if (entry.get("test_set"), entry.get("conditions")) == (test_set, conditions)]
    found = [entry for entry in of_these if isinstance(entry.get("components"), dict)]
    return found[-1] if found else None


def remember(test_set: str, trial: str, facts: Mapping[str, Any]) -> None:
    """Note that a trial was judged; once per trial. A folder that cannot be written is told, and stops nothing."""
    if any(entry.get("trial") == trial and entry.get("test_set") == test_set for entry in _entries()):
        return
    path = history_path()
    line = json.dumps({"test_set": test_set, "trial": trial, **facts}, sort_keys=True) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = file.seek(0, os.SEEK_END)  # where it ended before the lock, another one may have been amid a line
            if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
                line = "\n" + line  # the last line was cut off by a crash
            file.write(line.encode())
    except OSError as error:
        progress.note(f"trial: {path} cannot be written ({error}); the next trial will not know of this one")


def _entries() -> list[dict[str, Any]]:
    try:
        lines = history_path().read_text("utf-8", errors="replace").split("\n")
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # cut off by a crash; one entry is lost, not the file
        if isinstance(entry, dict) and "trial" in entry:
            found.append(entry)
    return found
