"""Which library multiplies float32 matrices on a CPU: measured, for speed and for error."""

import functools
import time
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Library = Literal["default", "onednn"]
SHAPE = (1024, 768, 1024)
GAIN = 1.25
"""How much faster oneDNN has to be: where both use the processor well they differ by a few percent, either way."""
ERROR = 2.0
"""How much larger its error may be. Sums in another order differ by less; with bfloat16 inputs it is thousands of times that."""


@functools.cache
def choose() -> Library:
    """The faster of torch's default (MKL on x86) and oneDNN, if as exact; under half a second, and then known for the process.

    MKL is slow on processors of other makers. oneDNN takes float32 products only where it is allowed to round them to bfloat16,
    which it does on processors with units for that (AMX) and not elsewhere: so its error is looked at, not its name.
    """
    import torch

    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "default"
    generator = torch.Generator().manual_seed(0)
    rows, inner, columns = SHAPE
    left, right = (torch.randn(*shape, generator=generator) for shape in ((rows, inner), (columns, inner)))
    exact = left.double() @ right.double().T
    before = current()
    found: dict[Library, tuple[float, float]] = {}
    try:
        for library in ("default", "onednn"):
            use(library)
            found[library] = _measured(left, right, exact)
    finally:
        use(before)
    (seconds, error), (other_seconds, other_error) = found["default"], found["onednn"]
    return "onednn" if other_seconds * GAIN < seconds and other_error <= ERROR * error else "default"


def _measured(left: "torch.Tensor", right: "torch.Tensor", exact: "torch.Tensor") -> tuple[float, float]:
    """Seconds of the fastest of some products, and the largest error."""
    import torch

    seconds = []
    for _ in range(6):
        begin = time.perf_counter()
        product = torch.nn.functional.linear(left, right)
        seconds.append(time.perf_counter() - begin)
    return min(seconds), float((product.double() - exact).abs().max())


def current() -> Library:
    """What multiplies now."""
    import torch

    return "onednn" if torch.backends.mkldnn.matmul.fp32_precision == "bf16" else "default"  # type: ignore[attr-defined]


def use(library: Library) -> None:
    """Have float32 products made by this library from now on, in the whole process."""
    import torch

    if current() != library:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16" if library == "onednn" else "none"  # type: ignore[attr-defined]
