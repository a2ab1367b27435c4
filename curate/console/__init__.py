"""Reports as text for a terminal. Text from data is shown, never obeyed: control characters are escaped."""

import itertools
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from curate.progress import duration

if TYPE_CHECKING:
    from rich.console import Console

    from curate.advice import Advice
    from curate.advice.statistics import Estimate
    from curate.calibration import Calibration
    from curate.correlation import Correlations
    from curate.inspection import Preview, PreviewRow, Quote
    from curate.learning.judging import Estimate as Judged
    from curate.pipeline import RunResult
    from curate.proxy import Comparison
    from curate.publication import Recut
    from curate.selection import SelectionReport


LEAST_FIRST, LEAST_TEXT = 12, 8
"""The first column and other columns of text are at least this wide, however narrow the terminal."""


def plain(text: str, *, most: int | None = None, keep_newlines: bool = False) -> str:
    """Text with control, format and bidirectional characters written as escapes, so that a terminal only prints it."""
    shown = "".join(
        c if (c == "\n" and keep_newlines) or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else ascii(c)[1:-1]
        for c in (text if most is None else text[: most + 1])
    )
    return shown if most is None or len(shown) <= most else f"{shown[: most - 1]}…"


def console() -> "Console":
    """Where results are printed: stdout, without markup, wide enough for tables when piped."""
    import shutil

    from rich.console import Console

    width = max(60, min(140, shutil.get_terminal_size((100, 24)).columns))
    return Console(markup=False, highlight=False, emoji=False, width=width, soft_wrap=False)


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, numbers_from: int = 1, fold: bool = False) -> Any:
    """A table whose numbers stay whole: on a narrow terminal their headers and the text in the other columns wrap.

    `fold` breaks long words of text rather than cutting them off, for names that differ at their end.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for place, header in enumerate(headers):
        widest = max((len(line) for row in rows for line in row[place].split("\n")), default=0)
        is_number = place >= numbers_from
        least = widest if is_number else min(widest, LEAST_TEXT if place else LEAST_FIRST)
        overflow: Literal["fold", "ellipsis"] = "fold" if fold and not is_number else "ellipsis"
        table.add_column(header, justify="right" if is_number else "left", min_width=least, overflow=overflow)
    for row in rows:
        table.add_row(*row)
    return table


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _counts(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def show_run(result: "RunResult | Recut") -> None:
    """The closing lines of a run, or of another cut of a publication."""
    out = console()
    report = result.report
    out.print(_step_table(report))
    out.print(_source_table(report))
    for line in closing_lines(report):
        out.print(line)
    for decision, examples in itertools.groupby(report.dropped_examples, lambda row: row.decision):
        out.print(f"\nexamples of what was {decision}:")
        _rows(out, list(examples), None)
    if report.borderline:
        out.print(f"\nclosest to the cut ({report.ranked_by}):")
        _rows(out, report.borderline, report.ranked_by)
    for warning in report.warnings:
        out.print(f"\nnote: {plain(warning)}", style="yellow")
    out.print(f"\n{_tested(result)}")
    row = report.borderline[0].row if report.borderline else 0
    # A cut of a publication without its rejected rows is no whole run: there is a selection, but nothing to explain it by.
    after = f"   next: curate explain {result.out} {row}" if getattr(result, "is_whole", True) else ""
    out.print(f"kept rows: {result.out}/selection/kept{after}")


def _tested(result: "RunResult | Recut") -> str:
    """The verdict of the latest trial of these very steps on this folder, or that there was none."""
    from curate.trials import TrialReport, finished_trials

    steps = result.selection.recipe.as_data()["steps"]
    reports = [TrialReport.load(folder) for folder in finished_trials(result.out, result.report.recipe)]
    mine = [report for report in reports if report.data["plan"]["recipe"]["steps"] == steps]
    return plain(f"trial: {mine[-1].sentence}") if mine else result.report.trial


def _step_table(report: "SelectionReport") -> Any:
    rows = []
    for step in report.steps:
        groups = ", ".join(f"{count:,} ranked in {name}" for name, count in step.groups.items())
        notes = "; ".join(filter(None, [groups, f"{step.unscored:,} unscored" if step.unscored else ""]))
        rows.append(
            [
                step.step + (f"\n  ({notes})" if notes else ""),
                f"{step.rows:,}",
                f"-{step.rejected:,}",
                f"{step.rows - step.rejected:,}",
            ]
        )
    return _table([f"recipe {report.recipe}", "rows", "rejected", "left"], rows)


def _source_table(report: "SelectionReport") -> Any:
    unit = {"characters": "characters"}.get(report.length_unit, report.length_unit.rpartition(".")[2].replace("_", " "))
    rows = [
        [
            plain(count.source or "(no source)", most=40),
            f"{count.rows:,}",
            f"{count.kept:,}",
            _share(count.kept, count.rows),
            _number(count.mean_length_kept),
            _number(count.mean_length_rejected),
        ]
        for count in report.sources[:40]
    ]
    rows.append(
        [
            "all" + (f" (and {len(report.sources) - 40} more sources)" if len(report.sources) > 40 else ""),
            f"{report.rows:,}",
            f"{report.kept:,}",
            _share(report.kept, report.rows),
            _number(report.mean_length_kept),
            _number(report.mean_length_rejected),
        ]
    )
    return _table(["source", "rows", "kept", "", f"mean {unit} kept", "rejected"], rows)


def closing_lines(report: "SelectionReport") -> list[str]:
    """Refused and unscored rows, and what the selection mostly follows."""
    lines = []
    if report.refused:
        reasons = _counts(report.refused)
        lines.append(
            f"refused: {sum(report.refused.values()):,} unreadable rows ({plain(reasons)}), listed in rows/refused.parquet"
        )
    for name, reasons_ in report.unscored.items():
        lines.append(f"unscored by {name}: {plain(_counts(reasons_))}")
    if report.truncated:
        lines.append(f"truncated: {report.truncated:,} rows are longer than --max-length and scored on their beginning only")
    for step in report.steps:
        lines += [
            f"mixed: {plain(part.source or '(no source)')} {part.share:.1%} wanted, {part.got:,} of {part.available:,} rows taken"
            for part in step.portions
        ]
    if (found := report.diversity) is not None:
        lines.append(
            f"self-BLEU: {_number(found.all_rows, 3)} of all rows, {_number(found.kept, 3)} of the kept, "
            f"{_number(found.random, 3)} of as many random ones (lower is more diverse; it rises with the number of rows)"
        )
    for name, figures in report.calibration.items():
        lines.append(
            f"{name}: AUROC {figures.auroc:.3f}, {figures.found_at_1:.0%} found at 1 % false positives (calibrated here)"
        )
    if report.explained_by_both is not None:
        lines.append(
            f"explained by length alone {_r2(report.explained_by_length)}, by source alone {_r2(report.explained_by_source)}, "
            f"by both {_r2(report.explained_by_both)} of the selection (R squared)"
        )
    return lines


def _r2(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _rows(out: "Console", rows: Sequence[Any], field: str | None) -> None:
    table = [
        [
            f"{row.row}",
            plain(row.source or "-", most=20),
            *([] if field is None else [_number(row.value, 4), "-" if row.margin is None else f"{row.margin:+.4f}"]),
            "kept" if row.decision == "kept" else "rejected",
            plain(row.completion, most=60),
        ]
        for row in rows
    ]
    headers = ["row", "source", *([] if field is None else ["value", "margin"]), "decision", "completion"]
    out.print(_table(headers, table, numbers_from=len(headers)))


def show_explanation(entry: Mapping[str, Any]) -> None:
    """One row's story."""
    out = console()
    out.print(f"row {entry['row']}  id {plain(entry['id'] or '-')}  source {plain(entry['source'] or '-')}")
    how = (
        "" if entry["rejected_by"] is None else f" by `{entry['rejected_by']}`" + (" (unscored)" if entry["is_unscored"] else "")
    )
    out.print(f"{entry['decision']}{how}, recipe {entry['recipe']}", style="bold")
    if entry["margin"] is not None:
        out.print(f"margin {entry['margin']:+.6g} in {entry['margin_of']} to the cut (positive: on the kept side)")
    if entry["fails"]:
        out.print(f"ruled out by: {'; '.join(entry['fails'])}")
    scores = [
        [f"{name}.{output}", f"{value:.6g}" if isinstance(value, float) else plain(str(value), most=60)]
        for name, annotation in entry.items()
        if isinstance(annotation, Mapping)
        for output, value in annotation.items()
        if value is not None
    ]
    out.print(_table(["score", "value"], scores))
    if len(entry["same_prompt"]) > 1:
        rivals = [
            [f"{rival['row']}", plain(rival["source"] or "-", most=30), rival["decision"], _number(rival["value"], 4)]
            for rival in entry["same_prompt"][:20]
        ]
        headers = ["row", "source", "decision", entry["ranked_by"] or ""]
        out.print(f"all {len(entry['same_prompt'])} rows of this prompt, kept ones first, then those that were rejected last:")
        out.print(_table(headers, rivals, numbers_from=3))
    for what in ("prompt", "completion", "gold"):
        if entry[what] is not None:
            out.print(f"{what}:", style="bold")
            out.print(plain(entry[what], most=2000, keep_newlines=True))


def show_preview(preview: "Preview") -> None:
    """Layout and rendered rows; the scored tokens stand out."""
    from rich.text import Text

    styles = {"context": "dim", "content": "bold green", "closing": "yellow"}
    out = console()
    out.print(f"{plain(preview.data)}\n{plain(preview.layout, keep_newlines=True)}")
    if any(row.tokens is not None for row in preview.rows):
        out.print(f"rendered as {preview.template}; ⟦completion⟧ and ⟨closing tokens⟩ bear loss")
    if any(row.as_read is not None for row in preview.rows):
        out.print("normalised before scoring; kept rows hold the completion as it was read, and that is what is trained")
    if preview.added_by_template:
        out.print(f"the template adds to the prompt: {plain(preview.added_by_template)}", style="yellow")
    for row in preview.rows:
        tokens = "" if row.tokens is None else f", {row.tokens} tokens {'bear loss' if row.as_read is None else 'are scored'}"
        if row.unscored is not None:
            tokens = f", not scored: {plain(row.unscored)}"
        flags = f" [{', '.join(row.flags)}]" if row.flags else ""
        out.print(f"\nrow {row.row}, source {plain(row.source or '-')}{tokens}{flags}", style="bold")
        _show_stripped(out, row)
        text = Text()
        for segment in row.segments:
            shown = plain(segment.text, most=3000, keep_newlines=True)
            if row.tokens is not None and segment.kind != "context":
                shown = f"⟦{shown}⟧" if segment.kind == "content" else f"⟨{shown}⟩"
            text.append(shown, "" if row.unscored is not None else styles[segment.kind])
        out.print(text)
    for line in preview.refused:
        out.print(f"refused: {plain(line, most=200)}", style="yellow")


def _show_stripped(out: "Console", row: "PreviewRow") -> None:
    """What normalising takes from a row, and the completion before it."""
    if row.as_read is None:
        return
    for name, pieces in row.stripped.items():
        # Backslash-escaped, so that line breaks and runs of spaces can be seen.
        listed = "  ".join(repr(piece) if piece.isspace() else piece.strip() for piece in pieces[:6])
        more = f"  and {len(pieces) - 6:,} more" if len(pieces) > 6 else ""
        out.print(f"{name} strips {len(pieces):,}: {plain(listed, most=200)}{more}", style="yellow")
    trained = "" if row.tokens_as_read is None else f" ({row.tokens_as_read} tokens bear loss in training)"
    out.print(f"as read{trained}:", style="dim")
    out.print(plain(row.as_read, most=3000, keep_newlines=True), style="dim")
    out.print("as scored:", style="dim")


def show_quote(quote: "Quote") -> None:
    """The estimate, and what it rests on."""
    out = console()
    per_row = f"{quote.tokens_per_row:,.0f} a row in the sample, {quote.scored_tokens_per_row:,.0f} of them scored"
    rate = f"{quote.tokens_per_second:,.0f} tokens/s, scored or context, on {quote.device}, {quote.dtype}"
    out.print(f"rows            {quote.rows:,}" + (f" ({quote.refused:,} refused)" if quote.refused else ""))
    out.print(f"tokens          {quote.tokens:,} ({per_row})")
    out.print(f"rate            {rate} (measured on {quote.scorable_rows} rows)")
    if quote.unscored:
        out.print(f"unscored        {plain(_counts(quote.unscored))} of {quote.sampled_rows} sampled rows; they cost nothing")
    out.print(f"time            {duration(quote.seconds)}")
    if quote.memory_mb is not None:
        out.print(f"memory          {quote.memory_mb:,.0f} MB at the peak of the probe; it does not grow with the number of rows")
    if quote.rows_truncated:
        out.print(f"truncated       {quote.rows_truncated:.1%} of the sampled rows are longer than max_length")


def show_comparison(found: "Comparison") -> None:
    """What both models take, how far they agree, and what that allows to say."""
    out = console()
    refused = f" ({found.refused:,} refused)" if found.refused else ""
    scored = f"{found.sampled_rows:,} of {found.sampled_prompts:,} prompts scored by both models"
    out.print(f"{plain(found.data)}: {found.rows:,} rows{refused}; {scored}, recipe {found.recipe}")
    models = {"target": found.target, "proxy": found.proxy}
    rows = [
        [
            name,
            plain(scoring.model, most=60),
            f"{scoring.tokens_per_second:,.0f}",
            duration(scoring.sampled_seconds),
            f"{scoring.tokens:,}",
            duration(scoring.seconds),
        ]
        for name, scoring in models.items()
    ]
    out.print(_table(["", "model", "tokens/s", "sample", "tokens of all rows", "all rows"], rows, numbers_from=2, fold=True))
    for name, scoring in models.items():
        if scoring.unscored:
            out.print(f"unscored by the {name}: {plain(_counts(scoring.unscored))}")
        if scoring.truncated:
            out.print(f"truncated by the {name}: {scoring.truncated:,} of the sampled rows")
    agreed = [
        [_step_and_groups(step.step, step.groups), f"{step.rows:,}", _spearman(step.overall), _spearman(step.within)]
        for step in found.ranks
    ]
    out.print(_table(["ranks agree (Spearman)", "rows", "overall", "in groups"], agreed))
    out.print(f"kept by the target's scores: {found.kept_by_target:,} rows, by the proxy's: {found.kept_by_proxy:,}")
    out.print(
        f"of the target's rows the proxy keeps {_share_of(found.overlap)}, random scores {found.chance.value:.0%} "
        f"(95 % of shuffles: {found.chance.low:.0%} to {found.chance.high:.0%})"
    )
    out.print(f"\n{plain(found.advice)}", style="bold")
    for note in found.notes:
        out.print(f"note: {plain(note)}", style="yellow")
    out.print(
        f"times are of forward passes on {found.proxy.device}, {found.proxy.dtype}, one after the other: what else the machine "
        "does shows in them; intervals are 95 %, over prompts"
    )


def _step_and_groups(step: str, groups: Mapping[str, int]) -> str:
    return f"{step}\n  ({', '.join(f'{count:,} ranked in {name}' for name, count in groups.items())})"


def _spearman(estimate: "Judged | None") -> str:
    return "-" if estimate is None else _with_interval(estimate.value, (estimate.low, estimate.high), "{:.2f}")


def _share_of(estimate: "Judged") -> str:
    return _with_interval(estimate.value, (estimate.low, estimate.high), "{:.0%}")


def show_advice(advice: "Advice") -> None:
    """Sources best first, why, and what that rests on."""
    out = console()
    has_bleu = any(fact.self_bleu for fact in advice.sources)
    headers = ["", "source", "rows", *(["self-aligned"] if advice.measure == "self_aligned" else [])]
    headers += ["perplexity", "median", "errors", *(["self-BLEU"] if has_bleu else []), "characters"]
    rows: list[list[str]] = []
    for fact in advice.sources:
        rank = f"{advice.ranked.index(fact.source) + 1}" if fact.source in advice.ranked else "-"
        own = " (own)" if fact.is_own else " =" if fact.source in advice.tied else ""
        cells = [fact.perplexity, fact.median_perplexity]
        if advice.measure == "self_aligned":
            cells.insert(0, fact.self_aligned)
        shown = [_interval(cell, _three_digits) for cell in cells] + [_interval(fact.error_rate, "{:.0%}".format)]
        shown += [_interval(fact.self_bleu, "{:.2f}".format)] if has_bleu else []
        rows.append([rank, plain(fact.source, most=40) + own, f"{fact.rows:,}", *shown, f"{fact.length.value:,.0f}"])
    out.print(_table(headers, rows, numbers_from=2, fold=True))
    paired = f"{advice.shared_prompts:,} of {advice.prompts:,} prompts answered by every source"
    out.print(f"{paired}; below a figure its 95 % interval over prompts" + ("; = may equal the first" if advice.tied else ""))
    out.print(f"\n{plain(advice.reason)}", style="bold")
    for note in advice.notes:
        out.print(f"note: {plain(note)}", style="yellow")
    out.print(f"\nWhat this rests on: {advice.evidence}")
    for limit in advice.limits:
        out.print(f"  {limit}")


def _interval(estimate: "Estimate | None", form: Callable[[float], str]) -> str:
    if estimate is None:
        return "-"
    return f"{form(estimate.value)}\n{form(estimate.low)}-{form(estimate.high)}"


def _three_digits(value: float) -> str:
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"


def show_correlations(found: "Correlations") -> None:
    """What each score's variance is made of, then the correlations."""
    out = console()
    out.print(f"{found.rows:,} rows, {found.sources:,} sources, {found.prompts:,} prompts")
    shares = [
        [plain(field.name, most=50), f"{field.scored:,}"]
        + ["-" if share is None else f"{share:.0%}" for share in field.shares.in_order()]
        for field in found.fields
    ]
    out.print(_table(["share of variance that is", "rows", "source", "prompt", "length", "together"], shares))
    names = [field.name for field in found.fields]
    if len(names) <= 8:
        rows = [
            [f"{place} {name}", *("-" if value is None else f"{value:+.2f}" for value in found.correlation[place - 1][:place])]
            + [""] * (len(names) - place)
            for place, name in enumerate(names, 1)
        ]
        out.print("Spearman rank correlations, pairwise complete:")
        out.print(_table(["", *(f"{place}" for place in range(1, len(names) + 1))], rows))
    else:
        strongest = found.strongest(20)
        rows = [[a, b, f"{value:+.2f}", f"{count:,}"] for a, b, value, count in strongest]
        what = f"the {len(rows)} largest Spearman rank correlations between scores of different filters, at least 0.3 in size"
        out.print(f"{what}; all with --json, --plot, or --fields of at most 8 scores:")
        out.print(_table(["", "and", "correlation", "rows"], rows, numbers_from=2))
    if found.constant:
        out.print(f"one value in all rows, left out: {plain(', '.join(found.constant))}")
    if found.copies:
        out.print(f"left out as equal: {plain(', '.join(f'{name} = {other}' for name, other in found.copies.items()))}")


def show_calibration(found: "Calibration") -> None:
    """What every detector does, and whom it accuses."""
    out = console()
    out.print(
        f"{plain(found.data)}: human are {plain(', '.join(found.human))}; machines {plain(', '.join(found.machine))}"
        + (f"; {found.unlabelled:,} rows without a source" if found.unlabelled else "")
    )
    rows = [
        [
            plain(name),
            _with_interval(figures.auroc, figures.auroc_interval, "{:.3f}"),
            _with_interval(figures.found_at_1, figures.found_at_1_interval, "{:.0%}"),
            _with_interval(figures.found_at_5, figures.found_at_5_interval, "{:.0%}"),
            f"{figures.human_rows:,} / {figures.machine_rows:,}",
            f"{sum(figures.unscored.values()):,}",
        ]
        for name, figures in sorted(found.detectors.items(), key=lambda entry: -entry[1].auroc)
    ]
    out.print(_table(["detector", "AUROC", "found at 1 % FP", "at 5 % FP", "human / machine", "unscored"], rows, fold=True))
    best, figures = max(found.detectors.items(), key=lambda entry: entry[1].auroc)
    out.print(f"At 1 % false positives {best} finds {figures.found_at_1:.0%} of the machine-written rows.")
    for group in sorted(figures.groups, key=lambda group: -group.rate_at_5)[:8]:
        if len(figures.groups) > 1:
            interval = _with_interval(group.rate_at_5, group.interval_at_5, "{:.1%}")
            out.print(
                f"  of {group.human_rows:,} human rows of {plain(group.group)} it accuses {interval}, where it accuses 5 % of all"
            )
    out.print("These figures hold for rows like these: other domains, languages and generators have others.")
    if found.saved:
        out.print(f"saved: {found.saved}; use it with `learned_detector: {{load: {found.saved}}}`")


def _with_interval(value: float, interval: tuple[float, float], form: str) -> str:
    return f"{form.format(value)} ({form.format(interval[0])} to {form.format(interval[1])})"
