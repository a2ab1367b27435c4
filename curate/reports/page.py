"""From a run's folder to `report.html`."""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from curate import _fs
from curate.errors import UsageError
from curate.reports.browsing import browsable
from curate.reports.figures import drawn_sources, flags, histograms, pictures, waterfall
from curate.reports.proof import trial_facts
from curate.reports.run_data import RunData
from curate.reports.surprise import choose_surprise, shaded_rows
from curate.reports.text import as_json, rounded, visible

NAME = "report.html"
_FOLDER = Path(__file__).resolve().parent
SHOWN = 5
"""Refused rows that are shown."""
LONGEST = 300
"""Characters of a filter's finding."""


def write_report(
    out: Path,
    into: Path | None = None,
    *,
    examples: int = 10_000,
    surprise_rows: int = 24,
    surprise: bool | None = None,
) -> Path:
    """Write the report of a run that has a selection, by default to `report.html` in its folder; returns where it lies.

    `examples` bounds the rows that can be browsed. `surprise_rows` rows are shaded token by token: `surprise` False none, True
    also with a model from the Hub or a large one, None only where the run's model is a folder here whose weights are small.
    Where the run has `token_nll`, only the model's tokenizer is loaded. Equal runs give equal bytes.

    Raises UsageError where there is no selection or `examples` is below one.
    """
    out = Path(out)
    if examples < 1:
        raise UsageError(f"--examples {examples}: a report needs at least one row to show")
    run = RunData(out)
    page = render(run, examples=examples, surprise_rows=surprise_rows, surprise=surprise)
    path = out / NAME if into is None else Path(into)
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name the file to write, such as {path / NAME}")
    path.parent.mkdir(parents=True, exist_ok=True)
    _fs.commit_bytes(path, page.encode("utf-8", "backslashreplace"))
    return path


def render(run: RunData, *, examples: int, surprise_rows: int, surprise: bool | None) -> str:
    """The page's text."""
    chosen = choose_surprise(run, surprise_rows)
    told = [row["row"] for name in ("borderline", "dropped_examples") for row in run.report[name]]
    trial = trial_facts(run)
    sources, _ = drawn_sources(run)
    data = {
        "rows": browsable(run, examples, {*told, *(row for row, _ in chosen)}),
        "sources": sources,
        "histograms": histograms(run),
        "pictures": pictures(run),
        "charts": trial.get("charts", []),
    }
    style, script = ((_FOLDER / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    page: str = _template().render(
        style=_trusted(style),
        script=_trusted(script),
        policy="; ".join(
            [
                "default-src 'none'",
                f"script-src '{_hash(script)}'",
                f"style-src '{_hash(style)}'",
                "img-src data:",
                "base-uri 'none'",
                "form-action 'none'",
            ]
        ),
        data=_trusted(as_json(_visible_charts(data))),
        run=run,
        report=run.report,
        facts=_facts(run),
        refused=_refused(run),
        waterfall=waterfall(run),
        pictures=data["pictures"],
        histograms=data["histograms"],
        surprise=shaded_rows(run, chosen, surprise),
        trial=trial,
        flags=flags(run),
        follows=_follows(run.report),
        recipe=run.shown(_recipe_text(run.recipe)),
        warnings=[run.shown(line) for line in run.report["warnings"]],
        findings=[
            (name, key, run.shown(_brief(value)))
            for name, found in run.report["findings"].items()
            for key, value in found.items()
        ],
        sample=data["rows"]["sample"],
    )
    return page


def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )  # fmt: skip
    environment.filters |= {"number": _number, "share": _share, "prose": _prose}
    return environment.get_template("report.html.jinja")


def _trusted(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)  # noqa: S704  (our own assets, and JSON that cannot end its element)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _visible_charts(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Names that come from elsewhere, made visible like the rows."""
    charts = [
        {**chart, "lines": [{**line, "name": visible(line["name"])} for line in chart["lines"]]} for chart in data["charts"]
    ]
    return {**data, "charts": charts}


def _brief(value: Any) -> str:
    """A finding of a filter, as short as a line can be."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        text = str(value)
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    return f"{rounded(value, 4):,}" if isinstance(value, float) and np.isfinite(value) else f"{value:,}"


def _prose(text: str) -> Any:
    """A sentence of ours, with what stands between back quotes as code."""
    from markupsafe import Markup, escape

    parts = [escape(visible(part)) for part in text.split("`")]
    if len(parts) % 2 == 0:  # a lone back quote marks nothing
        return Markup("`").join(parts)
    return Markup("").join(Markup("<code>{}</code>").format(part) if at % 2 else part for at, part in enumerate(parts))


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _share(part: float, whole: float) -> str:
    if not whole:
        return "–"
    text = f"{100 * part / whole:.1f} %"
    return "< 0.1 %" if part and text == "0.0 %" else text


def _facts(run: RunData) -> list[tuple[str, str]]:
    """What this run is, line by line."""
    recipe = run.recipe
    lines = [("data", _input(run.rows.manifest["input"])), ("recipe", str(recipe["name"]))]
    if recipe.get("summary"):
        lines.append(("", run.shown(str(recipe["summary"]))))
    if recipe.get("source"):
        lines.append(("after", run.shown(str(recipe["source"]))))
    model = run.model
    if model is None:
        lines.append(("model", "none: no filter of this recipe asks one"))
    else:
        identity = model["identity"]
        held = f"weights {identity['weights'][:12]}" if "weights" in identity else ""
        more = [held, str(model["dtype"] or ""), f"rows of up to {model['max_length']:,} tokens" if model["max_length"] else ""]
        lines.append(("model", ", ".join([model["name"], *filter(None, more)])))
    version = run.lock.get("packages", {}).get("curate-sft")
    lines.append(("made with", f"curate {version}" if version else "curate"))
    kept = run.lock.get("kept", {}).get("hash")
    if kept:
        lines.append(("kept rows' hash", str(kept)))
    return lines


def _input(facts: Mapping[str, Any]) -> str:
    if "files" in facts:
        names = [Path(str(one["name"])).name for one in facts["files"]]
        return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more files" if len(names) > SHOWN else "")
    if "repository" in facts:
        return f"{facts['repository']} at {str(facts.get('revision'))[:12]}"
    return str(facts.get("name", f"{facts.get('kind', 'unnamed')} data"))


def _refused(run: RunData) -> list[tuple[str, str, str]]:
    """The first refused rows: place, reason, detail."""
    import pyarrow.parquet as pq

    path = run.rows.folder / "refused.parquet"
    if not run.rows.refused or not path.is_file():
        return []
    rows = next(pq.ParquetFile(path).iter_batches(batch_size=SHOWN)).to_pylist()
    return [(run.shown(str(one["place"])), str(one["reason"]), str(one["detail"])[:200]) for one in rows]


def _follows(report: Mapping[str, Any]) -> list[tuple[str, float]]:
    names = (("length", "explained_by_length"), ("source", "explained_by_source"), ("both", "explained_by_both"))
    return [(name, report[key]) for name, key in names if report[key] is not None]


def _recipe_text(recipe: Mapping[str, Any]) -> str:
    """What decides of the recipe, as YAML; the trial's settings stand with the trial."""
    import io

    from ruamel.yaml import YAML

    yaml = YAML(typ="safe")
    yaml.default_flow_style = None
    yaml.width = 100
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    shown = {key: value for key, value in recipe.items() if key not in ("trial", "avoid", "evidence") and value not in ("", None)}
    order = ("name", "summary", "source", "filters", "steps", "unscored")
    written = io.StringIO()
    yaml.dump({key: shown[key] for key in (*order, *(key for key in shown if key not in order)) if key in shown}, written)
    return written.getvalue()
