"""Counts of n-grams beyond memory: DuckDB on a temporary file, one part of the n-grams after the other."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PARTS = 32
"""Parts of the n-grams by their hash; one is in memory at a time."""


@dataclass(frozen=True)
class HashedGrams:
    """Occurrences of n-grams: key and text."""

    high: npt.NDArray[np.uint64]
    low: npt.NDArray[np.uint64]
    texts: npt.NDArray[np.int64]


class GramsOnDisk:
    """(k, n-gram, text, count) rows in a file that vanishes with this object."""

    def __init__(self, n: int, *, memory_mb: int = 1024) -> None:
        import duckdb

        self.n = n
        # Beside it DuckDB writes what does not fit into its memory.
        self._folder = tempfile.TemporaryDirectory(prefix="curate-ngrams-")
        place = Path(self._folder.name)
        settings: dict[str, Any] = {"memory_limit": f"{memory_mb}MB", "temp_directory": str(place / "spill")}
        self._database = duckdb.connect(str(place / "grams.duckdb"), config=settings)
        self._database.execute("SET preserve_insertion_order = false")
        self._database.execute("CREATE TABLE grams (part UTINYINT, k UTINYINT, high UBIGINT, low UBIGINT, text BIGINT, n BIGINT)")

    def add(self, k: int, grams: HashedGrams) -> None:
        """Count the occurrences of some whole texts' k-grams."""
        import pyarrow as pa

        chunk = pa.table({"high": grams.high, "low": grams.low, "text": grams.texts})
        self._database.register("chunk", chunk)
        self._database.execute(
            f"INSERT INTO grams SELECT (high >> 59)::UTINYINT AS part, {int(k)}, high, low, text, count(*) "  # noqa: S608
            "FROM chunk GROUP BY high, low, text ORDER BY part"
        )
        self._database.unregister("chunk")

    def lost(self, texts: int) -> npt.NDArray[np.int64]:
        """How many of its k-grams each text loses to clipping; (n, texts)."""
        lost = np.zeros((self.n, texts), dtype=np.int64)
        for part in range(PARTS):
            found = self._database.execute(
                "SELECT k, holder, sum(lost)::BIGINT AS all_lost FROM ("
                "  SELECT k, arg_max(text, n) AS holder, max(n, 2) AS top, top[1] - coalesce(top[2], 0) AS lost"
                "  FROM grams WHERE part = ? GROUP BY k, high, low"
                ") WHERE lost > 0 GROUP BY k, holder",
                [part],
            ).fetchnumpy()
            np.add.at(
                lost, (found["k"].astype(np.int64) - 1, found["holder"].astype(np.int64)), found[list(found)[2]].astype(np.int64)
            )
        return lost

    def __del__(self) -> None:
        database = getattr(self, "_database", None)
        if database is not None:
            database.close()
            self._folder.cleanup()
