"""Which library multiplies float32 matrices on a CPU: measured, for speed and for error."""

import functools
import statistics
import time
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Library = Literal["default", "onednn"]
SHAPE, ROUNDS = (512, 768, 1024), 12
GAIN = 1.25
"""How much faster oneDNN has to be, in its best round and in most rounds: where both use the processor well they differ by a few
percent, either way, and two runs of one command should not differ in their last digits because the machine was busy."""
ERROR = 2.0
"""How much larger its error may be. Sums in another order differ by less; with bfloat16 inputs it is thousands of times that."""


@functools.cache
def choose() -> Library:
    """The faster on one thread of torch's default (MKL on x86) and oneDNN, if as exact.

    It takes under half a second, and is then known for the process. MKL is slow on processors of other makers. oneDNN takes
    float32 products only where it is allowed to round them to bfloat16, which it does on processors with units for that (AMX)
    and not elsewhere: so its error is looked at, not its name.
    """
    import torch

    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "default"
    generator = torch.Generator().manual_seed(0)
    rows, inner, columns = SHAPE
    left, right = (torch.randn(*shape, generator=generator) for shape in ((rows, inner), (columns, inner)))
    exact = left.double() @ right.double().T
    before, threads = current(), torch.get_num_threads()
    seconds: dict[Library, list[float]] = {"default": [], "onednn": []}
    errors: dict[Library, float] = {}
    try:
        # What a core does with a product is asked. Threads that wait for each other on a busy machine would tell of the machine.
        torch.set_num_threads(1)
        for _ in range(ROUNDS):  # in turn, so that what else the machine does meets both
            for library in seconds:
                use(library)
                taken, errors[library] = _measured(left, right, exact)
                seconds[library].append(taken)
    finally:
        torch.set_num_threads(threads)
        use(before)
    gains = [other / own for other, own in zip(*seconds.values(), strict=True)]
    gain = min(statistics.median(gains), min(seconds["default"]) / min(seconds["onednn"]))
    return "onednn" if gain > GAIN and errors["onednn"] <= ERROR * errors["default"] else "default"


def _measured(left: "torch.Tensor", right: "torch.Tensor", exact: "torch.Tensor") -> tuple[float, float]:
    """Seconds of a product, and its largest error."""
    import torch

    begin = time.perf_counter()
    product = torch.nn.functional.linear(left, right)
    seconds = time.perf_counter() - begin
    return seconds, float((product.double() - exact).abs().max())


def current() -> Library:
    """What multiplies now."""
    import torch

    return "onednn" if torch.backends.mkldnn.matmul.fp32_precision == "bf16" else "default"  # type: ignore[attr-defined]


def use(library: Library) -> None:
    """Have float32 products made by this library from now on, in the whole process."""
    import torch

    if current() != library:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16" if library == "onednn" else "none"  # type: ignore[attr-defined]
