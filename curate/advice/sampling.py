"""Which rows are scored: the same prompts from every source, as far as they go."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from curate import progress
from curate.errors import InputError, UsageError
from curate.examples import Example, Examples, load_examples, stable_hash


@dataclass(frozen=True)
class Sample:
    """Some rows of every source."""

    examples: Examples
    shared_prompts: int
    """Prompts that every source answers in the sample."""
    prompts: int
    without_source: int
    """Rows of the data that name no source, which are left out."""


def sample(examples: Examples, rows_per_source: int, *, seed: int = 0) -> Sample:
    """At most `rows_per_source` rows of every source, one a prompt; prompts that more sources answer come first.

    Among prompts that equally many sources answer the seed decides, and neither their order nor how many others there are does.
    Raises UsageError when no row names its source.
    """
    answered: dict[str, dict[str, int]] = defaultdict(dict)
    without = 0
    with progress.measuring("looking at sources"):
        for example in examples:
            progress.tick(rows=1)
            if example.source is None:
                without += 1
            else:
                answered[example.prompt_key].setdefault(example.source, example.row)
    if not answered and not without:
        raise InputError(f"{examples.name}: no row to advise on")
    if not answered:
        raise UsageError(
            f"{examples.name}: no row says which source wrote it, and advice is about choosing between sources; "
            "name the column with --columns source=NAME"
        )
    rows = _choose(answered, rows_per_source, seed)
    held = [_record(example) for example in examples if example.row in rows]
    chosen: Counter[str] = Counter(record["group"] for record in held)
    sources = {record["source"] for record in held}
    found = load_examples(held, columns={"messages": "messages", "group": "group", "source": "source"})
    shared = sum(count == len(sources) for count in chosen.values())
    return Sample(found, shared, len(chosen), without)


def _choose(answered: Mapping[str, Mapping[str, int]], rows_per_source: int, seed: int) -> set[int]:
    left = dict.fromkeys({source for sources in answered.values() for source in sources}, rows_per_source)
    rows: set[int] = set()
    for key in sorted(answered, key=lambda key: (-len(answered[key]), stable_hash([seed, key]))):
        for source, row in answered[key].items():
            if left[source]:
                left[source] -= 1
                rows.add(row)
    return rows


def _record(example: Example) -> dict[str, Any]:
    found = {
        "messages": [dict(message) for message in example.messages],
        "group": example.prompt_key,
        "source": example.source,
        "id": example.id,
        "gold": example.gold,
        "tests": None if example.tests is None else list(example.tests),
    }
    return {name: value for name, value in found.items() if value is not None}
