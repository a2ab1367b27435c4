"""What the tests of whole runs share: small data, the command line called in this process, hashes of a folder."""

import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

from curate.examples import Example
from curate.filters import Filter, Scores, Unscored, register

Record = Mapping[str, Any]


def record(prompt: str, response: str, **more: Any) -> Record:
    """One raw row."""
    return {"prompt": prompt, "response": response, **more}


def some_rows(count: int, *, per_prompt: int = 4) -> list[Record]:
    """Rows with several responses per prompt, from two sources, of different lengths."""
    return [
        record(
            f"What is {row // per_prompt} + 1?",
            f"It is {row // per_prompt + 1}." + " Sure." * (row % 7),
            id=f"r{row}",
            source=("human", "gpt")[row % 2],
            value=float(row * 37 % 101),
        )
        for row in range(count)
    ]


def write_rows(path: Path, rows: Iterable[Record]) -> Path:
    """A JSON-lines file."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@register("given")
class Given(Filter):
    """Puts out what the row's own columns say: a stand-in for any filter."""

    version: ClassVar[int] = 1
    reads: ClassVar = ("extra",)
    outputs: ClassVar = {"value": "float64", "flag": "bool"}

    def score(self, example: Example) -> Scores | Unscored:
        value = example.extra.get("value")
        if value is None:
            return Unscored("absent")
        return {"value": float(value), "flag": bool(example.extra.get("flag"))}


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def curate(*arguments: str | Path) -> Outcome:
    """Run the command line's entry point in this process; whatever escapes it would be a traceback, and fails the test."""
    from curate.cli import main

    out, err = io.StringIO(), io.StringIO()
    former = signal.getsignal(signal.SIGTERM)
    code = 0
    with (
        mock.patch.object(sys, "argv", ["curate", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            signal.signal(signal.SIGTERM, former)
    return Outcome(code, out.getvalue(), err.getvalue())


def start(*arguments: str | Path, **environment: str) -> "subprocess.Popen[str]":
    """The command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "curate.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs inherit it ignored
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def finished(*arguments: str | Path, **environment: str) -> Outcome:
    """The command line in a process of its own, run to its end."""
    process = start(*arguments, **environment)
    out, err = process.communicate(timeout=240)
    return Outcome(process.returncode, out, err)


def python(code: str, *arguments: str, **environment: str) -> Outcome:
    """A few lines of Python in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def tree(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, by relative path; the lock's content names a process and is left out."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def recipe_file(path: Path, steps: Sequence[str], *, filters: str = "{given: {}}", unscored: str = "keep") -> Path:
    """A recipe of these steps, each a line of YAML."""
    lines = "".join(f"  - {step}\n" for step in steps)
    path.write_text(f"name: {path.stem}\nfilters: {filters}\nunscored: {unscored}\nsteps:\n{lines}", encoding="utf-8")
    return path
