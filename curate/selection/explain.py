"""Why one row was kept or rejected."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from curate import _fs
from curate.errors import IntegrityError, UsageError
from curate.recipes.schema import STEPS, Ranking, Step
from curate.rows import RowStore


@contextlib.contextmanager
def _readable(ledger: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise IntegrityError(f"{ledger}: damaged ({error}); run `curate select` again") from error


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
    index = next(shard.index for shard in rows.shards if shard.start <= row < shard.stop)
    with _readable(ledger), pq.ParquetFile(ledger, page_checksum_verification=True) as file:
        # One row group was written per shard, in shard order.
        (entry,) = file.read_row_group(index).filter(pc.equal(pc.field("row"), row)).to_pylist()
    shard = rows.shards[index]
    example = rows.examples(shard, extra=True)[row - shard.start]
    decision = _fs.read_json(out / "selection" / "selection.json", "recipe", "report")
    ranked_by = decision["report"]["ranked_by"]
    # One by one: the recipe as a whole would ask for the filters, and they may be a plug-in's.
    steps = [STEPS[word](**settings) for step in decision["recipe"]["steps"] for word, settings in step.items()]
    return {
        **entry,
        "margin_of": _margin_field(entry, steps),
        "recipe": decision["recipe"]["name"],
        "prompt": example.prompt_text,
        "completion": example.completion,
        "gold": example.gold,
        "ranked_by": ranked_by,
        "same_prompt": _same_prompt(ledger, entry["prompt_key"], ranked_by, steps),
    }


def _margin_field(entry: Mapping[str, Any], steps: Sequence[Step]) -> str | None:
    """The field in whose unit the row's margin is: of the rejecting step, for a kept row as `Selection.margin` says."""
    if entry["margin"] is None:
        return None
    if entry["rejected_by"] is not None:
        return next(step.fields()[0] for step in steps if str(step) == entry["rejected_by"])
    rankings: list[Step] = [step for step in steps if isinstance(step, Ranking)]
    measuring = rankings or [step for step in steps if step.measures]
    return measuring[-1].fields()[0]


def _same_prompt(ledger: Path, prompt_key: str, ranked_by: str | None, steps: Sequence[Step]) -> list[dict[str, Any]]:
    """The rows that answer the same prompt: kept ones first, then those that went last, by distance to the cut."""
    import pyarrow.parquet as pq

    name, _, output = (ranked_by or "").partition(".")
    columns = ["row", "source", "decision", "rejected_by", "margin", *([name] if name else [])]
    with _readable(ledger):
        table = pq.read_table(ledger, columns=columns, filters=[("prompt_key", "=", prompt_key)], page_checksum_verification=True)
    found = []
    for record in table.to_pylist():
        annotation = record.pop(name, None)
        found.append({**record, "value": annotation[output] if annotation else None})
    # Margins of two steps have two units and are not compared.
    lasted = {None: len(steps)} | {str(step): place for place, step in enumerate(steps)}
    return sorted(found, key=lambda one: (-lasted[one["rejected_by"]], -(one["margin"] or 0.0), one["row"]))
