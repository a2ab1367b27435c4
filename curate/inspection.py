"""Looking before paying: what would be read and scored (preview), and what it would cost (quote)."""

import itertools
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from curate import progress
from curate.errors import InputError
from curate.examples import Example, Examples, Refused
from curate.filters.likelihood import Likelihood
from curate.filters.normalisation import normalised, strip_markup
from curate.likelihood import ChatTemplateError, Rendered, Renderer

PROBE_ROWS = 64
PROBE_SECONDS = 20.0


@dataclass(frozen=True)
class Segment:
    """A stretch of a rendered row: `context`, `content` (the completion), or `closing` (template end, bears loss too)."""

    kind: str
    text: str


@dataclass(frozen=True)
class PreviewRow:
    """One row as the model would see it."""

    row: int
    source: str | None
    segments: list[Segment]
    tokens: int | None
    """Tokens that bear loss; None without a model, and where the row cannot be scored."""
    flags: list[str]
    unscored: str | None = None
    """Why the model cannot score the row, which is then shown as it was read."""
    stripped: Mapping[str, list[str]] = field(default_factory=dict)
    """What `normalise` strips before scoring, by normaliser; what is shown is what is left."""
    as_read: str | None = None
    """The completion before that, where it differs: kept rows hold it, and it is what is trained."""
    tokens_as_read: int | None = None
    """Tokens that bear loss when it is trained; None as `tokens` is, and where nothing is stripped."""


@dataclass(frozen=True)
class Preview:
    """What was detected, and a few rows."""

    data: str
    layout: str
    rows: list[PreviewRow]
    refused: list[str]
    template: str | None
    """`chat template` or `plain concatenation`; None without a model."""
    added_by_template: str | None
    """Text of the rendered prompt that is not in the data, such as a default system prompt."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def preview(examples: Examples, likelihood: Likelihood | None, *, rows: int = 3, normalise: Sequence[str] = ()) -> Preview:
    """The first rows, rendered and marked; without a model, as they were read, less what `normalise` strips.

    A model brings its own `normalise`. Raises InputError when no row can be read.
    """
    records = list(itertools.islice(examples.records(), 200))
    chosen = [record for record in records if isinstance(record, Example)][:rows]
    refused = [f"{record.place}: {record.reason}: {record.detail}" for record in records if isinstance(record, Refused)]
    if not chosen:
        why = f"the first {len(refused)} are all refused: {refused[0]}" if refused else "it is empty"
        raise InputError(f"{examples.name}: no row to show; {why}")
    renderer = likelihood.renderer() if likelihood else None
    if likelihood is None or renderer is None:
        shown = [_before_and_after(_as_read(normalised(example, normalise)), example, normalise) for example in chosen]
    else:
        shown = _rendered(likelihood, renderer, chosen)
    return Preview(
        data=examples.name,
        layout=examples.layout.describe(),
        rows=shown,
        refused=refused[:5],
        template=None if renderer is None else "chat template" if renderer.is_chat else "plain concatenation",
        added_by_template=None if renderer is None else _added(renderer, chosen[0]),
    )


def _as_read(example: Example) -> PreviewRow:
    segments = [Segment("context", f"{message['role']}: {message['content']}\n") for message in example.prompt]
    return PreviewRow(example.row, example.source, [*segments, Segment("content", example.completion)], None, [])


def _rendered(likelihood: Likelihood, renderer: Renderer, examples: list[Example]) -> list[PreviewRow]:
    rows = []
    results = likelihood.rendered(examples, renderer)
    for example, result, plain in zip(examples, results, renderer.render(examples), strict=True):
        if not isinstance(result, Rendered):
            rows.append(replace(_as_read(example), unscored=result.reason))
            continue
        parts, done = [], 0
        for turn in result.turns:
            first, end = turn.content
            for kind, stop in (("context", turn.start), ("closing", first), ("content", end), ("closing", turn.stop)):
                parts.append((kind, result.input_ids[done:stop]))
                done = stop
        segments = [Segment(kind, str(renderer.tokenizer.decode(list(ids)))) for kind, ids in parts if len(ids)]
        flags = [name for name in ("border_merged", "truncated") if getattr(result, name)]
        row = PreviewRow(example.row, example.source, segments, result.trained, flags)
        trained = plain.trained if isinstance(plain, Rendered) else None
        rows.append(_before_and_after(row, example, likelihood.normalise, tokens=trained))
    return rows


def _before_and_after(row: PreviewRow, example: Example, names: Sequence[str], *, tokens: int | None = None) -> PreviewRow:
    """What normalising strips from a row, beside what is left."""
    after = strip_markup(example.completion, names)
    if after.text == example.completion:
        return row
    return replace(row, stripped=after.stripped, as_read=example.completion, tokens_as_read=tokens)


def _added(renderer: Renderer, example: Example) -> str | None:
    """What the template says that the data does not: its own words, less markers and role names."""
    if not renderer.is_chat:
        return None
    try:
        text, _ = renderer.texts(example)
    except ChatTemplateError:
        return None  # the row itself says that it cannot be rendered
    for known in [*(message["content"].strip() for message in example.prompt), *renderer.tokenizer.all_special_tokens]:
        text = text.replace(known, " ") if known else text
    text = re.sub(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{1,20}\]", " ", text)  # markers that the tokenizer does not list as special
    words = [word for word in text.split() if word.strip(":#|").lower() not in ("", "user", "assistant", "system")]
    return " ".join(words)[:500] if words else None


@dataclass(frozen=True)
class Quote:
    """What scoring would cost here: counted rows, estimated tokens, a measured rate.

    Tokens are all that the model reads, context and scored, of the rows that it can score.
    """

    rows: int
    refused: int
    sampled_rows: int
    scorable_rows: int
    """Of the sampled ones."""
    unscored: dict[str, int]
    """The others, by reason."""
    tokens_per_row: float
    scored_tokens_per_row: float
    tokens: int
    rows_truncated: float
    tokens_per_second: float
    seconds: float
    memory_mb: float | None
    device: str
    dtype: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def quote(examples: Examples, likelihood: Likelihood) -> Quote:
    """Count the rows, tokenise a random sample of them, time the model on it, and scale up.

    Raises InputError when there is no row, or none of the sample can be scored.
    """
    sample, rows, refused = _reservoir(examples)
    if not sample:
        raise InputError(f"{examples.name}: no row to score" + (f"; {refused:,} are refused" if refused else ""))
    results = likelihood.rendered(sample, likelihood.renderer())
    rendered = [row for row in results if isinstance(row, Rendered)]
    unscored = dict(Counter(row.reason for row in results if not isinstance(row, Rendered)).most_common())
    if not rendered:
        reasons = ", ".join(f"{count} {reason}" for reason, count in unscored.items())
        raise InputError(f"{examples.name}: the model can score none of {len(sample)} sampled rows ({reasons})")
    lengths = np.array([len(row.input_ids) for row in rendered])
    scored = np.array([row.trained for row in rendered])
    settings = likelihood.freeze()
    bound = likelihood.frozen(settings)
    engine = bound.engine()
    engine.score(rendered[:1], batch_tokens=settings["batch_tokens"])  # the first pass pays for allocation
    done, seconds = 0, 0.0
    step = 16 * engine.pace(settings["batch_tokens"]).workers
    for at in range(0, len(rendered), step):
        begin = time.perf_counter()
        engine.score(rendered[at : at + step], batch_tokens=settings["batch_tokens"])
        seconds += time.perf_counter() - begin
        done += int(lengths[at : at + step].sum())
        if seconds > PROBE_SECONDS:
            break
    total = int(lengths.mean() * rows * len(rendered) / len(sample))
    rate = done / seconds if seconds else 0.0
    return Quote(
        rows=rows,
        refused=refused,
        sampled_rows=len(sample),
        scorable_rows=len(rendered),
        unscored=unscored,
        tokens_per_row=float(lengths.mean()),
        scored_tokens_per_row=float(scored.mean()),
        tokens=total,
        rows_truncated=sum(row.truncated for row in rendered) / len(rendered),
        tokens_per_second=rate,
        seconds=total / rate if rate else 0.0,
        memory_mb=_peak_memory_mb(settings["device"]),
        device=settings["device_name"],
        dtype=settings["dtype"],
    )


def _reservoir(examples: Examples) -> tuple[list[Example], int, int]:
    """A uniform sample of rows, and how many rows and refused rows there are."""
    generator = np.random.default_rng(0)
    sample: list[Example] = []
    rows = refused = 0
    with progress.measuring("counting rows"):
        for record in examples.records():
            if isinstance(record, Refused):
                refused += 1
                continue
            rows += 1
            progress.tick(rows=1)
            if len(sample) < PROBE_ROWS:
                sample.append(record)
            elif (place := int(generator.integers(rows))) < PROBE_ROWS:
                sample[place] = record
    return sample, rows, refused


def _peak_memory_mb(device: str) -> float | None:
    """Peak memory of the probe: on the device, or of this process."""
    if device != "cpu":
        import torch

        devices = range(torch.cuda.device_count()) if device == "auto" else [device]
        return sum(torch.cuda.max_memory_allocated(one) for one in devices) / 1e6
    import resource
    import sys
    from pathlib import Path

    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would also count what the process was before it became this program
        return next(int(line.split()[1]) / 1e3 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
