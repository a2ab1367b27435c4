"""The `compression` filter: how well a completion compresses."""

import zlib
from typing import ClassVar

from pydantic import Field

from curate.examples import Example
from curate.filters.base import Filter, OutputType, Scores, Unscored, register
from curate.filters.limits import head

_LEVEL = 9
_HEADER_BYTES = 11
"""What zlib adds to any text: header, checksum and the ends of one block; without them short texts of all kinds look alike."""


@register("compression")
class Compression(Filter):
    """Bytes of the completion over its compressed bytes. Higher is more repetitive.

    Outputs:
        ratio: UTF-8 bytes over the bytes that DEFLATE makes of them, its constant frame of 11 bytes left out. Prose of a hundred
            words has about 1.7 to 2.5, a text that repeats itself far more.
        bytes: UTF-8 bytes of the completion.

    Rises with length, since the beginning of a text is what its end is compressed with: compare rows of like length.
    Unscored: `shorter than 200 bytes` (`fewest_bytes`). The first 100,000 characters are looked at.
    Cost: linear in length, about 0.03 ms per row of 600 characters, no model.
    Source: compression ratio of Shaib et al. 2024 (arXiv:2403.00553), per text in place of per corpus; zlib's DEFLATE at level 9.
    """

    version: ClassVar[int] = 1
    outputs: ClassVar[dict[str, OutputType]] = {"ratio": "float64", "bytes": "int64"}

    fewest_bytes: int = Field(default=200, ge=1, description="Bytes below which the ratio says nothing.")

    def score(self, example: Example) -> Scores | Unscored:
        """The ratio."""
        # surrogatepass: half a surrogate pair is a character of a str, whatever a file can hold.
        raw = head(example.completion).encode("utf-8", "surrogatepass")
        if len(raw) < self.fewest_bytes:
            return Unscored(f"shorter than {self.fewest_bytes} bytes")
        return {"ratio": len(raw) / max(1, len(zlib.compress(raw, _LEVEL)) - _HEADER_BYTES), "bytes": len(raw)}
