"""How long work tells how far it is: rows, tokens, rates and time left, on stderr."""

import contextlib
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TextIO

LINE_SECONDS = 10.0
"""Where stderr is no terminal, a line this often."""


class Meter:
    """Counts rows and tokens of one stage and prints rates and the time left; silent when `stream` is None."""

    def __init__(self, what: str, total: int | None, stream: TextIO | None) -> None:
        self.what, self.total, self.stream = what, total, stream
        self.rows = self.tokens = 0
        self._done_before = 0
        self._begin = self._shown = time.monotonic()
        self._live = bool(stream and stream.isatty())

    def skip(self, rows: int) -> None:
        """Rows that an earlier run did: they count as done, not into the rate."""
        self._done_before += rows

    def advance(self, *, rows: int = 0, tokens: int = 0) -> None:
        """Count work done, and show it now and then."""
        self.rows += rows
        self.tokens += tokens
        now = time.monotonic()
        if self.stream and now - self._shown >= (0.2 if self._live else LINE_SECONDS):
            self._shown = now
            self.stream.write(f"\r\x1b[2K{self.line()}" if self._live else f"{self.line()}\n")
            self.stream.flush()

    def line(self) -> str:
        """`scoring perplexity: 512 of 17,000 rows · 84 rows/s · 14,200 tokens/s · 3 min 16 s left`."""
        seconds = max(time.monotonic() - self._begin, 1e-9)
        done = self.rows + self._done_before
        parts = [f"{self.what}: {done:,}" + (f" of {self.total:,} rows" if self.total is not None else " rows")]
        if self.rows:
            parts.append(f"{self.rows / seconds:,.0f} rows/s")
        if self.tokens:
            parts.append(f"{self.tokens / seconds:,.0f} tokens/s")
        if self.rows and self.total is not None and self.total > done:
            parts.append(f"{duration((self.total - done) * seconds / self.rows)} left")
        return " · ".join(parts)

    def close(self) -> None:
        """Leave the last line standing."""
        if self.stream and (self.rows or self.tokens):
            seconds = time.monotonic() - self._begin
            self.stream.write(("\r\x1b[2K" if self._live else "") + f"{self.line()} · {duration(seconds)}\n")
            self.stream.flush()


_CURRENT: ContextVar[Meter | None] = ContextVar("meter", default=None)
_STREAM: ContextVar[TextIO | None] = ContextVar("stream", default=None)


@dataclass
class Spent:
    """What models took inside `spending`."""

    seconds: float = 0.0
    """Of forward passes alone: neither loading nor rendering."""
    tokens: int = 0
    """Tokens that they read."""


_SPENT: ContextVar[Spent | None] = ContextVar("spent", default=None)


@contextlib.contextmanager
def spending() -> Iterator[Spent]:
    """Add up the forward passes of everything inside."""
    spent = Spent()
    token = _SPENT.set(spent)
    try:
        yield spent
    finally:
        _SPENT.reset(token)


@contextlib.contextmanager
def forward_pass() -> Iterator[None]:
    """A forward pass, which counts in `spending`."""
    begin = time.perf_counter()
    try:
        yield
    finally:
        if spent := _SPENT.get():
            spent.seconds += time.perf_counter() - begin


@contextlib.contextmanager
def shown(stream: TextIO | None = None) -> Iterator[None]:
    """Show progress of everything inside; without this, the library is silent."""
    token = _STREAM.set(stream or sys.stderr)
    try:
        yield
    finally:
        _STREAM.reset(token)


@contextlib.contextmanager
def measuring(what: str, total: int | None = None) -> Iterator[Meter]:
    """One stage of work; `tick` inside it counts."""
    meter = Meter(what, total, _STREAM.get())
    token = _CURRENT.set(meter)
    try:
        yield meter
    finally:
        _CURRENT.reset(token)
        meter.close()


def tick(*, rows: int = 0, tokens: int = 0) -> None:
    """Count work towards the stage that is being measured, if one is."""
    if meter := _CURRENT.get():
        meter.advance(rows=rows, tokens=tokens)
    if spent := _SPENT.get():
        spent.tokens += tokens


class Ticker:
    """Shows one line that its caller words, as often as a meter would; silent where no progress is shown."""

    def __init__(self) -> None:
        self._stream = _STREAM.get()
        self._live = bool(self._stream and self._stream.isatty())
        self._shown = float("-inf")

    def show(self, line: str, *, is_last: bool = False) -> None:
        """Show the line, unless another was shown a moment ago; the last one stays."""
        now = time.monotonic()
        if self._stream and (is_last or now - self._shown >= (0.2 if self._live else LINE_SECONDS)):
            self._shown = now
            self._stream.write(f"\r\x1b[2K{line}" + ("\n" if is_last else "") if self._live else f"{line}\n")
            self._stream.flush()


def note(text: str) -> None:
    """One line for the person at the terminal, where progress is shown."""
    if stream := _STREAM.get():
        stream.write(f"{text}\n")
        stream.flush()


def duration(seconds: float) -> str:
    """`3 min 16 s`: two units, so that it can be read at a glance."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
