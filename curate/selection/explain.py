"""Why one row was kept or rejected."""

from pathlib import Path
from typing import Any

from curate import _fs
from curate.errors import UsageError
from curate.rows import RowStore


def explain(out: Path, row: int) -> dict[str, Any]:
    """The ledger's entry of one row with its text and what the steps say, as plain data. Raises UsageError for no such row."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    ledger = out / "selection" / "ledger.parquet"
    if not ledger.is_file():
        raise UsageError(f"{out}: holds no selection; run `curate select {out} --recipe NAME` first")
    rows = RowStore(out / "rows")
    if not 0 <= row < rows.count:
        raise UsageError(f"row {row}: {out} has rows 0 to {rows.count - 1}")
    with pq.ParquetFile(ledger, page_checksum_verification=True) as file:
        # One row group was written per shard, in shard order.
        index = next(shard.index for shard in rows.shards if shard.start <= row < shard.stop)
        (entry,) = file.read_row_group(index).filter(pc.equal(pc.field("row"), row)).to_pylist()
    shard = rows.shards[index]
    example = rows.examples(shard, extra=True)[row - shard.start]
    recipe = _fs.read_json(out / "selection" / "selection.json")["recipe"]
    return {
        **entry,
        "recipe": recipe["name"],
        "prompt": example.prompt_text,
        "completion": example.completion,
        "gold": example.gold,
    }
