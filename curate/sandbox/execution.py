"""One run of one program: starts the level's command, feeds it, watches time and output, reads the verdict."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from curate.errors import SandboxError
from curate.sandbox.levels import Level

_AFTER_S = 2.0
"""Seconds that pipes may stay open after the command has ended; a process that survived holds them."""
_READ_BYTES = 65_536
_ANSWER_BYTES = 4_000_000


@dataclass(frozen=True)
class Raw:
    """What came out of one run, not interpreted."""

    answers: tuple[Mapping[str, Any], ...]
    """Messages of the harness, in order."""
    output: bytes
    """What was printed, and complaints of the command itself."""
    is_late: bool
    """It was ended by the clock."""
    is_loud: bool
    """It was ended for printing too much."""
    left_behind: bool
    """Something outlived the command."""
    exit_code: int


def execute(level: Level, stdin: bytes, *, wall_s: float, output_bytes: int, seed: int = 0) -> Raw:
    """Run the harness once with these bytes on its standard input."""
    name = f"curate-{uuid.uuid4().hex}"
    try:
        process = subprocess.Popen(  # noqa: S603  (absolute paths; nothing passes a shell)
            level.arguments(name=name, seed=seed),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(level.environment),
            cwd="/",
            close_fds=True,
            start_new_session=True,
            bufsize=0,
        )
    except OSError as error:
        raise SandboxError(f"{level.name}: {level.command[0]} does not start: {error}") from error
    run = _Run(process, stdin, output_bytes)
    try:
        run.pump(time.monotonic() + wall_s)
    finally:
        run.end(level, name)
    return Raw(
        answers=tuple(_messages(bytes(run.answer))),
        output=bytes(run.output[:output_bytes]),
        is_late=run.is_late,
        is_loud=run.is_loud,
        left_behind=run.left_behind,
        exit_code=process.returncode,
    )


class _Run:
    """The pipes of one process."""

    def __init__(self, process: "subprocess.Popen[bytes]", stdin: bytes, output_bytes: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.process, self.todo, self.output_bytes = process, memoryview(stdin), output_bytes
        self.answer, self.output = bytearray(), bytearray()
        self.is_late = self.is_loud = self.left_behind = False
        self.selector = selectors.DefaultSelector()
        for pipe, event in (
            (process.stdin, selectors.EVENT_WRITE),
            (process.stdout, selectors.EVENT_READ),
            (process.stderr, selectors.EVENT_READ),
        ):
            os.set_blocking(pipe.fileno(), False)
            self.selector.register(pipe, event)

    def pump(self, deadline: float) -> None:
        """Move bytes until every pipe is closed or a limit is passed."""
        while self.selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                self.is_late = True
                return
            for key, _ in self.selector.select(left):
                if key.fileobj is self.process.stdin:
                    self._write()
                else:
                    self._read(key.fileobj)
            if len(self.output) > self.output_bytes or len(self.answer) > _ANSWER_BYTES:
                self.is_loud = True
                return

    def _write(self) -> None:
        assert self.process.stdin
        try:
            self.todo = self.todo[os.write(self.process.stdin.fileno(), self.todo[:_READ_BYTES]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.todo = memoryview(b"")
        if not self.todo:
            self._close(self.process.stdin)

    def _read(self, pipe: Any) -> None:
        try:
            part = os.read(pipe.fileno(), _READ_BYTES)
        except BlockingIOError:
            return
        if part:
            (self.answer if pipe is self.process.stdout else self.output).extend(part)
        else:
            self._close(pipe)

    def _close(self, pipe: Any) -> None:
        self.selector.unregister(pipe)
        pipe.close()

    def end(self, level: Level, name: str) -> None:
        """Kill what still runs, wait for it, and see whether something outlived it."""
        if self.process.poll() is None and (self.is_late or self.is_loud or self.selector.get_map()):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
            if level.kill:
                arguments = [part.replace("{name}", name) for part in level.kill]
                with contextlib.suppress(OSError, subprocess.SubprocessError):
                    subprocess.run(arguments, capture_output=True, timeout=30, check=False, env=dict(level.environment))  # noqa: S603
        self.process.wait()
        is_ended = self.is_late or self.is_loud
        if self.selector.get_map() and is_ended:
            self.output_bytes = 1 << 62  # what is left in the pipes is read and dropped
            self.is_late = False
            self.pump(time.monotonic() + _AFTER_S)
            self.left_behind, self.is_late = self.is_late, not self.is_loud
        for key in list(self.selector.get_map().values()):
            self._close(key.fileobj)
        self.selector.close()


def _messages(data: bytes) -> list[Mapping[str, Any]]:
    """The frames of the harness; a broken one ends the list."""
    found: list[Mapping[str, Any]] = []
    while len(data) >= 4:
        size = int.from_bytes(data[:4], "big")
        if len(data) < 4 + size:
            break
        try:
            message = json.loads(data[4 : 4 + size])
        except (ValueError, RecursionError):
            break
        if not isinstance(message, dict):
            break
        found.append(cast(Mapping[str, Any], message))
        data = data[4 + size :]
    return found


def framed(*messages: Mapping[str, Any]) -> bytes:
    """Messages as the harness reads them."""
    parts = [json.dumps(message).encode() for message in messages]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
