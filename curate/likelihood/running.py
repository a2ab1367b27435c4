"""Batches of rows through a model: several at once on a CPU, one ahead on a GPU, one result per row."""

import collections
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from curate.likelihood.batching import plan_batches
from curate.likelihood.packing import plan_packs
from curate.likelihood.rendering import Rendered, Unrenderable

if TYPE_CHECKING:
    import torch

# N scored tokens, K statistics of each

T = TypeVar("T")


class OutOfMemory(Exception):  # noqa: N818  (a signal to the caller, who halves the budget; not shown to users)
    """A batch of several rows did not fit; the same shard is to be run again with a smaller token budget."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of a batch's scored tokens, on the CPU or on their way to it: float64 (N, K)."""

    per_token: "torch.Tensor"
    order: Sequence[int]
    """The rows' indices in the order in which their tokens stand."""
    copied: "torch.cuda.Event | None" = None
    """What says that they are there; None where they are."""

    @classmethod
    def of(cls, found: "torch.Tensor", order: Sequence[int]) -> "Statistics":
        """From a tensor on any device; a GPU goes on while it is copied."""
        import torch

        if found.device.type != "cuda":
            return cls(found.cpu(), order)
        # A copy that is waited for later would stand behind the next batch; an event behind this one does not.
        copied = found.to("cpu", non_blocking=True)
        return cls(copied, order, torch.cuda.current_stream(found.device).record_event())

    def by_row(self, rows: Sequence[Rendered]) -> "list[torch.Tensor]":
        """One part per row, in the order of the rows."""
        if self.copied is not None:
            self.copied.synchronize()
        counts = [rows[index].trained for index in self.order]
        parts = dict(zip(self.order, self.per_token.split(counts), strict=True))  # type: ignore[no-untyped-call]
        return [parts[index] for index in range(len(rows))]


@dataclass(frozen=True)
class Pace:
    """How batches follow each other on a device."""

    workers: int = 1
    """Batches that run at once, on their own threads."""
    ahead: int = 0
    """Batches that are launched before one is read; for devices that work by themselves."""


def in_batches(
    rows: Sequence[Rendered | Unrenderable],
    statistics: Callable[[Sequence[Rendered]], Statistics],
    told: "Callable[[Rendered, torch.Tensor], T | Unrenderable]",
    *,
    batch_tokens: int,
    packed: bool,
    pace: Pace,
    on_tokens: Callable[[int], None] | None = None,
) -> list[T | Unrenderable]:
    """One result per row, in order: what `told` makes of a row's statistics (N, K).

    Batches are a function of the rows, `batch_tokens` and `packed` (else padded) alone. `on_tokens` is called after each with all
    tokens of its rows, prompts included: what the model has to read. Raises OutOfMemory when a batch of several rows does not
    fit; a single row that does not fit is Unrenderable("out_of_memory").
    """
    results: list[T | Unrenderable | None] = [row if isinstance(row, Unrenderable) else None for row in rows]
    places = [place for place, row in enumerate(rows) if isinstance(row, Rendered)]
    todo = [row for row in rows if isinstance(row, Rendered)]
    plan = plan_packs(todo, batch_tokens) if packed else plan_batches([len(row.input_ids) for row in todo], batch_tokens)
    batches = [[todo[index] for index in batch] for batch in plan]
    found = _at_once(batches, statistics, pace.workers) if pace.workers > 1 else _in_turn(batches, statistics, pace.ahead)
    for batch, chosen, one in zip(plan, batches, found, strict=True):
        parts = [None] if one is None else one.by_row(chosen)
        for index, row, part in zip(batch, chosen, parts, strict=True):
            results[places[index]] = Unrenderable("out_of_memory") if part is None else told(row, part)
        if on_tokens is not None:
            on_tokens(sum(len(row.input_ids) for row in chosen))
    return [result for result in results if result is not None]


def _in_turn(
    batches: Sequence[Sequence[Rendered]], statistics: Callable[[Sequence[Rendered]], Statistics], ahead: int
) -> Iterator[Statistics | None]:
    launched: collections.deque[Statistics | None] = collections.deque()
    for rows in batches:
        launched.append(_fitting(rows, statistics))
        if len(launched) > ahead:
            yield launched.popleft()
    yield from launched


def _at_once(
    batches: Sequence[Sequence[Rendered]], statistics: Callable[[Sequence[Rendered]], Statistics], workers: int
) -> Iterator[Statistics | None]:
    """Each batch on one thread. Threads that share every matrix product wait for each other after each of its small parts."""
    import torch

    threads = torch.get_num_threads()
    workers = min(workers, len(batches)) or 1
    own = max(1, threads // workers)
    torch.set_num_threads(own)  # what a new thread begins with
    launched = collections.deque(_pool(os.getpid(), workers, own).submit(_fitting, rows, statistics) for rows in batches)
    try:
        while launched:
            yield launched.popleft().result()
    finally:
        for future in launched:
            future.cancel()
        wait(launched)
        torch.set_num_threads(threads)


@functools.lru_cache(maxsize=1)
def _pool(process: int, workers: int, threads: int) -> ThreadPoolExecutor:
    """Threads that stay: new ones would take over other parts of the C library's memory each time, and leave them filled.

    By process, because a fork's child has no threads but its own.
    """
    return ThreadPoolExecutor(workers, thread_name_prefix="scoring")


def _fitting(rows: Sequence[Rendered], statistics: Callable[[Sequence[Rendered]], Statistics]) -> Statistics | None:
    """The statistics of a batch; None where its only row does not fit."""
    import torch

    failed = False
    try:
        return statistics(rows)
    except torch.OutOfMemoryError:
        failed = True  # leave the except block first: the traceback keeps the failed batch's tensors alive
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        failed = True
    assert failed
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(rows) > 1:
        raise OutOfMemory
    return None
