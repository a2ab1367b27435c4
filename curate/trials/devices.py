"""Which GPUs a trial may use, and which of them each worker sees: a process that sees several would train on all of them."""

import os
from collections.abc import Sequence

from curate.errors import UsageError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def usable_devices(device: str, processes: int) -> tuple[str, ...]:
    """GPUs as `CUDA_VISIBLE_DEVICES` names them: the one that `cuda:1` names, else all that are visible here; none on a CPU.

    Raises UsageError where one run is to be spread over more than there are.
    """
    if device == "cpu":
        return ()
    there = _visible()
    _, _, index = device.partition(":")
    if index:
        there = there[int(index) : int(index) + 1]
    if processes > len(there):
        raise UsageError(f"--processes {processes}: --device {device} has {len(there)} GPUs; a process needs one of its own")
    return there


def _visible() -> tuple[str, ...]:
    """All GPUs that torch finds, by the names that an earlier CUDA_VISIBLE_DEVICES has for them."""
    count = _count()
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return tuple((named or [str(index) for index in range(count)])[:count])


def _count() -> int:
    import torch

    return int(torch.cuda.device_count())


def devices_of(worker: int, devices: Sequence[str], processes: int) -> str:
    """What a worker is to see: as many GPUs as it has processes, dealt out in turn."""
    return ",".join(devices[(worker * processes + at) % len(devices)] for at in range(processes))
