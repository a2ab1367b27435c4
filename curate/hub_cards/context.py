"""What a card says, from a run's folder: figures, tables and texts, each made inert for its place."""

import inspect
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from curate import _fs
from curate.errors import IntegrityError, UsageError
from curate.filters import known_filters
from curate.hub_cards import inert
from curate.hub_cards.header import configs_of, header_fields, is_repo, licenses_of, split_of
from curate.hub_cards.inert import Inert, code, number, prose, share, table
from curate.hub_cards.ledger import Bin, Ledger
from curate.rows import RowStore, Shard
from curate.selection.evidence import CALIBRATION, DETECTORS
from curate.selection.report import FEW_ALTERNATIVES, MOSTLY
from curate.trials import TrialReport, finished_trials
from curate.trials.power import power_sentence

MOST_SOURCES, MOST_FIELDS, MOST_FILES, EXAMPLES = 30, 12, 20, 3
_PLACEHOLDER = "USER/NAME"
_GROUPS = {
    "prompt": "other answers to the same prompt",
    "stratum": "rows of the same source and of like length",
    "source": "rows of the same source",
    "dataset": "all rows",
}
_PATH = re.compile(r"(?<![\w:/.<])(?:~?/|[A-Za-z]:\\)(?:[^\s/\\'\"`;,()]+[/\\])+([^\s/\\'\"`;,()]+)[/\\]?")
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+]{0,30}", re.ASCII)


def without_paths(text: str) -> str:
    """Text in which a path of somebody's machine is only its last name."""
    return _PATH.sub(lambda found: found[1], text)


def _scrubbed(value: Any) -> Any:
    """A recipe's data without the paths in its texts."""
    if isinstance(value, Mapping):
        return {key: _scrubbed(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_scrubbed(inner) for inner in value]
    return without_paths(value) if isinstance(value, str) else value


def card_context(
    out: Path, facts: Mapping[str, Any], *, repo: str | None, license: str | None, with_examples: bool
) -> dict[str, Any]:
    """The template's variables. Raises UsageError for a folder without a selection and for names that the Hub would not take."""
    if repo is not None and not is_repo(repo):
        raise UsageError(
            f"{repo[:100]!r}: no name of a repository; write USER/NAME in letters, digits, dots, dashes and underscores"
        )
    return _Run(out, facts, repo, license).context(with_examples)


class _Run:
    """A run's folder, opened once."""

    def __init__(self, out: Path, facts: Mapping[str, Any], repo: str | None, license: str | None) -> None:
        path = out / "selection" / "selection.json"
        if not path.is_file():
            raise UsageError(f"{out}: holds no selection to write a card of; run `curate select {out} --recipe NAME` first")
        self.out, self.facts, self.repo, self.license = out, facts, repo, license
        decision = _fs.read_json(path, "recipe", "report", "kept_rows")
        self.report: Mapping[str, Any] = decision["report"]
        self.recipe: Mapping[str, Any] = _scrubbed(facts.get("recipe") or decision["recipe"])
        self.steps: Sequence[Mapping[str, Any]] = decision["recipe"]["steps"]
        self.kept_rows = int(decision["kept_rows"])
        self.lock = _fs.read_json(out / "lock.json", "annotations", "packages", "rows", "kept")
        self.rows = RowStore(out / "rows")
        self.ledger = Ledger(out / "selection" / "ledger.parquet")
        self.source: Mapping[str, Any] = facts.get("source") or {}

    def context(self, with_examples: bool) -> dict[str, Any]:
        name = None if self.repo is None else self.repo.partition("/")[2]
        title = name or f"Rows chosen by {self.recipe['name']}"
        version = str(self.facts.get("curate") or self.lock["packages"].get("curate-sft") or "")
        return {
            "header": inert.header(header_fields(self.facts, title=title, license=self.license, kept=self.kept_rows)),
            "title": code(name) if name else Inert("Curated fine-tuning rows"),
            "repo": Inert(self.repo or _PLACEHOLDER),
            "split": Inert(split_of(self.facts)),
            "configs": set(configs_of(self.facts)),
            "version": Inert(version if _VERSION.fullmatch(version) else ""),
            "kept": self.kept_rows,
            "count": self.rows.count,
            "kept_share": share(self.kept_rows, self.rows.count),
            "rejected": self.rows.count - self.kept_rows,
            "recipe": self.recipe,
            "recipe_yaml": inert.recipe_yaml(_minimal(self.recipe)),
            "glance": self._glance(),
            "columns": self._columns(),
            "is_conversational": self._is_conversational(),
            "step_table": self._step_table(),
            "step_notes": list(self._step_notes()),
            "source_table": self._source_table(),
            "spreads": self._spreads(),
            "histogram": self._histogram(),
            "meanings": self._meanings(),
            "left_out": [code(field) for field in self.facts.get("left_out") or ()],
            "follows": list(self._follows()),
            "diversity": self._diversity(),
            "errors": self._flags("errors"),
            "tells": self._flags("tells"),
            "has_errors": self._annotated("errors"),
            "detectors": list(self._detectors()),
            "uncalibrated": [code(field) for field in self._detector_fields() if field not in self.report["calibration"]],
            "trial": self._trial(),
            "limits": list(self._limits()),
            "versions": self._versions(),
            "hashes": self._hashes(),
            "models": self._models(),
            "examples": list(self._examples()) if with_examples else [],
            "provenance": list(self._provenance()),
            "licenses": [code(text) for text in licenses_of(self.facts, self.license)],
        }

    # --- what it is ---

    def _glance(self) -> Inert:
        told = self._told
        rows = [
            (
                "Rows kept",
                Inert(f"{number(self.kept_rows)} of {number(self.rows.count)} ({share(self.kept_rows, self.rows.count)})"),
            ),
            ("Taken from", self._source_name()),
            ("Chosen by recipe", code(self.recipe["name"])),
            ("Scored with model", Inert("; ".join(model for model, _ in self._models()) or "none: this recipe asks no model")),
            ("Tested by training", Inert("no") if told is None else prose(self._trials[told].word)),
            ("Licence", Inert(", ".join(code(text) for text in licenses_of(self.facts, self.license)) or "not known")),
        ]
        return table(["in short", ""], [[Inert(name), value] for name, value in rows], text_columns=2)

    def _source_name(self) -> Inert:
        name, revision = self.source.get("name"), self.source.get("revision")
        if self.source.get("kind") == "hub" and is_repo(name):
            address = f"https://huggingface.co/datasets/{name}"
            if isinstance(revision, str) and re.fullmatch("[0-9a-f]{40}", revision):
                return Inert(f"{inert.link(str(name), f'{address}/tree/{revision}')} at revision {code(revision[:12])}")
            at = f" at revision {code(revision)}" if revision else ""
            return Inert(f"{inert.link(str(name), address)}{at}")
        files = self._input_files()
        if files:
            more = f" and {number(len(files) - 3)} more" if len(files) > 3 else ""
            listed = ", ".join(code(without_paths(str(file["name"]))) for file in files[:3])
            return Inert(f"the file{'s' if len(files) > 1 else ''} {listed}{more}")
        return code(without_paths(str(name))) if name else Inert("rows whose origin is not recorded")

    def _input_files(self) -> list[Mapping[str, Any]]:
        given = self.lock.get("input") or self.rows.manifest["input"]
        return list(given.get("files") or ())

    def _models(self) -> list[tuple[Inert, Inert]]:
        """Every model that scored, and the settings that its scores depend on."""
        found: dict[str, tuple[Inert, Inert]] = {}
        for name, entry in sorted(self.lock["annotations"].items()):
            for asked in _asked(entry["fingerprint"]):
                label = self._model_name(asked["model"], str(entry["folder"]))
                settings = [what.format(_setting(asked[key])) for key, what in _SETTINGS.items() if asked.get(key)]
                users = found.get(label, (Inert(""), Inert("")))[1]
                known = [part for part in users.split("; ") if part]
                told = f"asked by {code(name)}" + (f" ({', '.join(settings)})" if settings else "")
                found[label] = (label, Inert("; ".join([*known, *([told] if told not in known else [])])))
        return list(found.values())

    def _model_name(self, identity: Any, folder: str) -> Inert:
        if isinstance(identity, Mapping) and is_repo(identity.get("repository")):
            name, revision = str(identity["repository"]), str(identity.get("revision", ""))
            at = f" at revision {code(revision[:12])}" if revision else ""
            return Inert(f"{inert.link(name, f'https://huggingface.co/{name}')}{at}")
        if _is_packaged(identity):
            return Inert("the small reference model that comes with `curate`")
        try:
            plan = _fs.read_json(self.out / "annotations" / folder / "plan.json")
        except IntegrityError:  # lies in another run's folder (`--reuse`)
            plan = {}
        asked = plan.get("parameters")
        where = asked.get("model") if isinstance(asked, Mapping) else None
        weights = identity.get("weights") if isinstance(identity, Mapping) else None
        told = f"a local model, {code(without_paths(str(where)))}" if where else "a local model"
        return Inert(told + (f" with weights {code(str(weights)[:12])}" if weights else ""))

    # --- how to load it ---

    def _columns(self) -> list[Inert]:
        import pyarrow.parquet as pq

        paths = sorted((self.out / "selection" / "kept").glob("part-*.parquet"))
        return [code(name) for name in pq.read_schema(paths[0]).names] if paths else []

    def _is_conversational(self) -> bool:
        import pyarrow as pa
        import pyarrow.parquet as pq

        paths = sorted((self.out / "selection" / "kept").glob("part-*.parquet"))
        return bool(paths) and not pa.types.is_string(pq.read_schema(paths[0]).field("prompt").type)

    # --- what was kept ---

    def _step_table(self) -> Inert:
        rows = [
            [
                number(place),
                code(without_paths(step["step"]), most=160),
                _in_words(self.steps[place - 1] if place <= len(self.steps) else {}),
                number(step["rows"]),
                number(step["rejected"]),
                number(step["rows"] - step["rejected"]),
            ]
            for place, step in enumerate(self.report["steps"], 1)
        ]
        return table(["", "step", "in words", "rows before", "removed", "left"], rows, text_columns=3)

    def _step_notes(self) -> Iterator[Inert]:
        for place, step in enumerate(self.report["steps"], 1):
            ranked = {name: count for name, count in step["groups"].items() if count}
            if ranked:
                parts = [f"{number(count)} rows with {_GROUPS.get(name) or code(name)}" for name, count in ranked.items()]
                yield Inert(f"Step {place} compared {_listed(parts)}.")
            if step["unscored"]:
                yield Inert(f"Step {place} could not judge {number(step['unscored'])} rows: they have no score. {self._policy()}")
            for part in step["portions"]:
                yield Inert(
                    f"Step {place} took {number(part['got'])} of {number(part['available'])} rows of {_source(part['source'])}, "
                    f"for a wanted share of {share(round(1000 * part['share']), 1000)}."
                )

    def _policy(self) -> str:
        return {
            "keep": "Rows without a score stay, unless another step removes them.",
            "drop": "Rows without a score are removed.",
            "error": "The recipe allows no such rows.",
        }.get(str(self.recipe.get("unscored")), "")

    def _source_table(self) -> Inert:
        cross = self.ledger.crosstab()
        steps = list(dict.fromkeys(step["step"] for step in self.report["steps"]))
        ordered = [entry["source"] for entry in self.report["sources"]]
        ordered += [source for source in cross if source not in ordered]
        lines = [(_source(source), cross.get(source, {})) for source in ordered[:MOST_SOURCES]]
        if rest := ordered[MOST_SOURCES:]:
            counts = {step: sum(cross.get(source, {}).get(step) or 0 for source in rest) for step in (None, *steps)}
            lines.append((Inert(f"{number(len(rest))} more sources"), counts))
        lines.append((Inert("all"), {step: sum(counts.get(step) or 0 for counts in cross.values()) for step in (None, *steps)}))
        rows = []
        for name, counts in lines:
            whole, kept = sum(counts.values()), counts.get(None) or 0
            removed = [number(counts.get(step) or 0) for step in steps]
            rows.append([name, number(whole), *removed, number(kept), share(kept, whole)])
        return table(["source", "rows", *(f"by step {place}" for place in range(1, len(steps) + 1)), "kept", ""], rows)

    # --- scores ---

    def _step_fields(self) -> list[str]:
        return list(dict.fromkeys(field for step in self.steps for field in _fields_of(step)))

    def _number_fields(self) -> list[str]:
        known = self.ledger.number_fields()
        decisive = [field for field in self._step_fields() if field in known]
        return (decisive + [field for field in known if field not in decisive])[:MOST_FIELDS]

    def _spreads(self) -> Inert | None:
        rows = []
        for field in self._number_fields():
            values = self.ledger.numbers(field)
            for what, chosen in (("kept", self.ledger.kept), ("rejected", ~self.ledger.kept)):
                spread = self.ledger.spread(values, chosen)
                if spread.rows and (spread.scored or field in self._step_fields()):
                    rows.append([code(field), Inert(what), number(spread.scored), *map(number, spread.quantiles)])
        headers = ["score", "", "rows with it", "5 %", "25 %", "median", "75 %", "95 %"]
        return table(headers, rows, text_columns=2) if rows else None

    def _histogram(self) -> dict[str, Any] | None:
        """Of the score that the last ranking step went by, else of the last one that a step read."""
        known = [field for field in self._step_fields() if field in self.ledger.number_fields()]
        field = (
            self.report["ranked_by"] if self.report["ranked_by"] in self.ledger.number_fields() else known[-1] if known else None
        )
        bins = self.ledger.bins(self.ledger.numbers(field)) if field else []
        return {"field": code(field), "chart": _chart(bins)} if bins else None

    def _meanings(self) -> Inert | None:
        """What the published scores are, for who has not read the filters' data sheets."""
        named: Mapping[str, str] = self.facts.get("columns") or {}
        by_field = {field: column for column, field in named.items()}
        fields = [
            field for field in self.ledger.fields if field.partition(".")[2] != "unscored" and (not named or field in by_field)
        ]
        rows = [[code(by_field.get(field, field)), meaning] for field in fields if (meaning := _meaning(field)) is not None]
        return table(["column of `scores`" if named else "score", "what it is"], rows, text_columns=2) if rows else None

    # --- what it follows ---

    def _follows(self) -> Iterator[Inert]:
        report = self.report
        unit = {"characters": "characters"}.get(report["length_unit"]) or report["length_unit"].rpartition(".")[2].replace(
            "_", " "
        )
        kept, rejected = report["mean_length_kept"], report["mean_length_rejected"]
        if kept is not None and rejected is not None:
            yield Inert(f"Kept completions are {number(kept)} {prose(unit)} long on average, rejected ones {number(rejected)}.")
        by_length, by_source, both = (report[f"explained_by_{what}"] for what in ("length", "source", "both"))
        if both is None:
            yield Inert("All rows met the same fate, so there is nothing to explain.")
        else:
            yield Inert(
                f"The length of a completion alone explains {_r2(by_length)} of the decisions, its source alone "
                f"{_r2(by_source)}, both together {_r2(both)} (R squared of an additive model)."
            )
            if both > MOSTLY:
                yield Inert("**This is mostly a choice by length and source**: most of it could be had without any score.")
        alternatives = report["share_with_alternatives"]
        if alternatives is not None:
            yield Inert(
                f"Of the rows that were ranked, {share(round(1e6 * alternatives), 10**6)} had another answer to the same "
                "prompt to be compared with."
                + (
                    " That is few: the papers' evidence is for choosing between answers to one prompt, or between sources."
                    if alternatives < FEW_ALTERNATIVES
                    else ""
                )
            )

    def _diversity(self) -> Inert | None:
        found = self.report["diversity"]
        if found is None:
            return None
        rows = [
            [Inert(what), number(found[key])]
            for key, what in (("all_rows", "all rows"), ("kept", "kept rows"), ("random", "as many rows drawn at random"))
        ]
        return table(["", f"self-BLEU of order {number(found['n'])}"], rows)

    # --- errors, detectors ---

    def _annotated(self, filter_name: str) -> bool:
        return any(field.partition(".")[0] == filter_name for field in self.ledger.fields)

    def _flags(self, filter_name: str) -> Inert | None:
        rows = [
            [
                code(flag.field),
                _meaning(flag.field) or Inert(""),
                number(flag.found if flag.checked else None, absent="not checked"),
                number(flag.found_kept if flag.checked_kept else None, absent="not checked"),
                share(flag.found_kept, flag.checked_kept),
            ]
            for flag in self.ledger.flags(filter_name)
            if flag.field not in _NO_ERRORS and (flag.checked or flag.field in self._step_fields())
        ]
        headers = ["sign", "what it is", "in all rows", "left in kept rows", "share"]
        return table(headers, rows, text_columns=2) if rows else None

    def _detector_fields(self) -> list[str]:
        return [field for field in self._step_fields() if field.partition(".")[0] in DETECTORS]

    def _detectors(self) -> Iterator[Inert]:
        """Figures of the detectors that the recipe acts on, with intervals where the calibration's own file has them."""
        try:
            told = _fs.read_json(self.out / CALIBRATION, "detectors")["detectors"]
        except IntegrityError:
            told = {}
        for field, figures in self.report["calibration"].items():
            more = told.get(field) if isinstance(told, Mapping) else None
            entry: Mapping[str, Any] = more if isinstance(more, Mapping) else {}
            counts = (
                f", on {number(entry['human_rows'])} human-written and {number(entry['machine_rows'])} machine-written rows"
                if isinstance(entry.get("human_rows"), int) and isinstance(entry.get("machine_rows"), int)
                else ""
            )
            yield Inert(
                f"{code(field)} ranks a machine-written row above a human-written one in {number(100 * figures['auroc'])} % of "
                f"pairs{_interval(entry.get('auroc_interval'))} (50 % is chance){counts}. At a threshold that accuses 1 % of the "
                f"human rows it finds {number(100 * figures['found_at_1'])} % of the machine-written ones"
                f"{_interval(entry.get('found_at_1_interval'))}."
            )

    # --- the trial ---

    @cached_property
    def _trials(self) -> dict[str, TrialReport]:
        """Finished trials of these very steps, by folder: the clock, which a copy sets anew, has no say in their order."""
        found = {folder.name: TrialReport.load(folder) for folder in sorted(finished_trials(self.out))}
        return {name: report for name, report in found.items() if report.data["plan"]["recipe"]["steps"] == self.steps}

    @cached_property
    def _told(self) -> str | None:
        """Folder of the trial that is told of: the one that is published, where the facts say which."""
        if "trial" in self.facts:
            published = self.facts["trial"]
            return published if published in self._trials else None
        return max(self._trials, key=lambda name: (len(self._trials[name].data["arms"][0]["tokens"]), name), default=None)

    def _trial(self) -> dict[str, Any] | None:
        if self._told is None:
            return None
        report = self._trials[self._told]
        data = report.data
        task = data["primary"]["task"]
        arms = {arm["arm"]: arm for arm in data["arms"]}
        scores = [
            [
                code(score["arm"]),
                _trained_on(score["arm"]),
                number(len(score["strict"])),
                _points(score["strict"]),
                number(arms[score["arm"]]["rows"]),
                number(arms[score["arm"]]["steps"]),
                number(round(statistics.fmean(arms[score["arm"]]["tokens"]))),
            ]
            for score in data["scores"]
            if score["task"] == task
        ]
        credits = [
            [
                Inert("; ".join(code(without_paths(step), most=160) for step in entry["steps"]) or "–"),
                prose(entry["word"]),
                Inert(f"{100 * entry['difference']:+.1f}"),
                Inert(f"{100 * entry['low']:+.1f} to {100 * entry['high']:+.1f}"),
            ]
            for entry in data["steps"]
        ]
        notes = [*data["verdict"]["reasons"], *data["limits"], *data["notices"]]
        notes += [
            f"{overlap['found']:,} of {overlap['items']:,} test items of {overlap['task']} stand in the training rows"
            for overlap in data["overlaps"]
            if overlap["found"]
        ]
        others = [other.sentence for name, other in self._trials.items() if name != self._told]
        return {
            "word": prose(report.word),
            "sentence": prose(without_paths(report.sentence)),
            "task": code(task),
            "model": self._trained(data),
            "scores": table(["arm", "trained on", "seeds", "points", "rows", "steps", "tokens"], scores, text_columns=2),
            "credits": table(["step", "verdict", "points", "95 % interval"], credits, text_columns=2) if credits else None,
            "notes": [prose(without_paths(note)) for note in notes],
            "others": [prose(without_paths(sentence)) for sentence in others],
            "power": prose(power_sentence(data["power"])),
        }

    def _trained(self, data: Mapping[str, Any]) -> Inert:
        """The model that the trial trained."""
        identity = data["plan"].get("model_identity")
        if _is_packaged(identity):
            return Inert("the small reference model that comes with `curate`")
        return code(without_paths(str(data["model"])))

    # --- limits, reproduction, provenance ---

    def _limits(self) -> Iterator[Inert]:
        read = "Nobody has read these rows for this card: all figures come from programs"
        yield Inert(f"{read}, and rows that no score speaks against may still be wrong, harmful or private.")
        if self._models():
            yield Inert("Scores are the opinion of the models named here; for another model other rows may be the better ones.")
        for name, reasons in self.ledger.unscored().items():
            for reason, (rows, kept) in list(reasons.items())[:8]:
                yield Inert(
                    f"{code(name)} could not score {number(rows)} rows ({code(reason)}); {number(kept)} of them were kept. "
                    f"Their scores are null, never 0. {self._policy()}"
                )
        for reason, count in self.rows.refused.items():
            yield Inert(f"{number(count)} rows could not be read at all ({code(reason)}) and are in no file here.")
        if left_out := self.facts.get("rejected_left_out"):
            told = f"{number(left_out)} rejected rows are conversations of several turns"
            yield Inert(f"{told}, which two strings cannot hold: they are not in the config `rejected`.")
        if self.report["truncated"]:
            yield Inert(
                f"{number(self.report['truncated'])} rows are longer than the model was given, and scored on their beginning."
            )
        for field in self._detector_fields():
            if field not in self.report["calibration"]:
                yield Inert(f"{code(field)} was not calibrated: nobody knows how many human rows it takes for machine-written.")
        for warning in self.report["warnings"]:
            if not any(known in warning for known in _SAID_ELSEWHERE):
                told = without_paths(warning.removesuffix(": read the examples of them"))
                yield Inert(f"A warning of the run: {prose(told)}.")

    def _versions(self) -> Inert:
        return table(
            ["package", "version"],
            [[code(name), code(found)] for name, found in sorted(self.lock["packages"].items())],
            text_columns=2,
        )

    def _hashes(self) -> Inert:
        rows = [
            (Inert("kept rows"), self.facts.get("kept_hash") or self.lock["kept"]["hash"]),
            (Inert("recipe"), self.facts.get("recipe_hash") or self.lock.get("recipe_hash")),
            (Inert("rows read"), self.lock["rows"]["identity"]),
        ]
        files = self._input_files()
        rows += [
            (
                Inert(f"input {code(without_paths(str(file['name'])))}"),
                next((file[key] for key in file if key.startswith("xxh3")), None),
            )
            for file in files[:MOST_FILES]
        ]
        return table(["of", "hash"], [[what, code(found or "not recorded")] for what, found in rows], text_columns=2)

    def _provenance(self) -> Iterator[Inert]:
        source = self.source
        yield Inert(f"Taken from {self._source_name()}.")
        if stated := [text for text in [source.get("license")] if text]:
            found = stated[0] if isinstance(stated[0], (list, tuple)) else stated
            yield Inert(f"The source states as its licence {_listed([code(text) for text in found])}.")
        if source.get("is_gated"):
            yield Inert("The source is gated: who wants it has to accept its terms.")
        if source.get("is_private"):
            yield Inert("The source is private.")
        names = [entry["source"] for entry in self.report["sources"] if entry["source"] is not None]
        if names:
            more = f" and {number(len(names) - MOST_SOURCES)} more" if len(names) > MOST_SOURCES else ""
            listed = ", ".join(code(name) for name in names[:MOST_SOURCES])
            yield Inert(f"Who wrote the completions, as the rows themselves say: {listed}{more}.")
        else:
            yield Inert("The rows do not say who wrote them.")
        synthetic = self.facts.get("synthetic")
        yield Inert(
            "Some or all completions were written by language models."
            if synthetic is True
            else "The completions were written by people, as far as the source says."
            if synthetic is False
            else "Whether language models wrote some of the completions is not recorded."
        )

    def _examples(self) -> Iterator[dict[str, Any]]:
        """Rows at even distances among the kept ones."""
        import numpy as np

        kept = np.flatnonzero(self.ledger.kept)
        chosen = kept[np.linspace(0, len(kept) - 1, min(EXAMPLES, len(kept))).astype(int)].tolist() if len(kept) else []
        for row in chosen:
            shard: Shard = next(shard for shard in self.rows.shards if shard.start <= row < shard.stop)
            example = self.rows.examples(shard)[row - shard.start]
            yield {
                "row": number(row),
                "source": _source(example.source),
                "prompt": inert.fence("\n".join(message["content"] for message in example.messages[:-1])),
                "completion": inert.fence(example.completion),
            }


_ORDER = ("name", "summary", "source", "evidence", "avoid", "filters", "steps", "unscored", "trial")
_SETTINGS = {
    "chat_template": "chat template",
    "dtype": "precision",
    "max_length": "at most tokens",
    "normalise": "after stripping",
}
_NO_ERRORS = ("errors.contains_gold", "errors.strict_wrong")
"""True is better; and what only says in which form an answer stands."""
_ARMS = {
    "curated": "the kept rows",
    "random-clean": "as many rows, drawn at random instead of by the last step",
    "random": "as many rows drawn at random from all",
    "full": "all rows, for as many steps",
    "full-epochs": "all rows, as often",
    "base": "nothing: the model as it was",
    "longest": "as many of the longest rows",
    "reverse": "the rows at the other end of the ranking",
}
_SAID_ELSEWHERE = ("uncalibrated here", "length and source alone explain", "had another response to the same prompt")


def _setting(value: Any) -> Inert:
    if isinstance(value, int):
        return number(value)
    return (
        prose(value) if value == "the tokenizer's own" else code(value if isinstance(value, str) else ", ".join(map(str, value)))
    )


def _is_packaged(identity: Any) -> bool:
    """Whether this is the model that the wheel holds."""
    if not isinstance(identity, Mapping) or "weights" not in identity:
        return False
    from curate.likelihood import model_identity
    from curate.reference import model_path

    return bool(model_identity(str(model_path()), None) == dict(identity))


def _asked(fingerprint: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The parts of a fingerprint that name a model."""
    if fingerprint.get("model"):
        yield fingerprint
    for inner in (fingerprint.get("depends") or {}).values():
        yield from _asked(inner)


def _minimal(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recipe as a person would write it: without what only repeats a default, where it is sure to be read back the same."""
    from pydantic import ValidationError

    from curate.recipes import Recipe

    def same(candidate: Mapping[str, Any]) -> bool:
        try:
            return bool(Recipe(**candidate).as_data() == recipe)
        except (ValidationError, TypeError):  # needed, or of a filter that is not installed here
            return False

    if not same(recipe):
        return recipe
    short: dict[str, Any] = {key: recipe[key] for key in _ORDER if key in recipe}
    short["trial"] = {**short["trial"], "training": dict(short["trial"]["training"])}
    short["steps"] = [
        {word: {key: given[key] for key in sorted(given, key=lambda key: key != "field")}}
        for step in short["steps"]
        for word, given in step.items()
    ]
    places = [short["trial"]["training"], short["trial"], *(given for step in short["steps"] for given in step.values()), short]
    for place in places:
        for key in list(place):
            value = place.pop(key)
            if not same(short):
                place[key] = value
    # Popping and putting back has changed no order among what stays: each key was put back at the end in turn.
    return short


def _fields_of(step: Mapping[str, Any]) -> Iterator[str]:
    """The scores that a step reads, from its data: the filter may not be installed here."""
    for word, settings in step.items():
        if isinstance(settings, Mapping) and isinstance(settings.get("field"), str):
            yield settings["field"]
        if word == "deduplicate" and isinstance(settings, Mapping) and settings.get("method") == "near":
            yield "near_duplicate.group"
        if word == "decontaminate":
            yield "contamination.overlap"


def _in_words(step: Mapping[str, Any]) -> Inert:
    """A step for people who know no recipes."""
    if len(step) != 1:
        return Inert("–")
    ((word, given),) = step.items()
    if not isinstance(given, Mapping):
        return Inert("–")
    field = code(given.get("field", ""))
    if word == "deduplicate":
        return Inert(
            "copies of an earlier row go" if given.get("method") == "exact" else "rows nearly equal to an earlier one go"
        )
    if word == "drop":
        if given.get("is") is not None:
            return Inert(
                f"rows go whose {field} is {code(str(given['is']).lower() if isinstance(given['is'], bool) else given['is'])}"
            )
        bounds = [f"{side} {_bound(given[side])}" for side in ("above", "below") if given.get(side) is not None]
        return Inert(f"rows go whose {field} lies {' or '.join(bounds)}")
    if word == "decontaminate":
        return Inert("rows go that repeat much of some test question")
    if word in ("keep", "best_of"):
        end = "lowest" if given.get("lowest") is not None else "highest"
        among = _GROUPS.get(str((given.get("within") or ["dataset"])[0]), "all rows")
        return Inert(f"of {among}, the {code(given.get(end, ''))} with the {end} {field} stay")
    if word == "sample":
        return Inert(f"a random {code(given.get('keep', ''))} stays, whatever its scores")
    if word == "mix":
        return Inert("rows are taken so that each source has its share")
    return Inert("the rows are put into an order" if word == "order" else "–")


def _bound(value: Any) -> Inert:
    return number(float(value)) if isinstance(value, (int, float)) and not isinstance(value, bool) else code(value)


def _source(name: str | None) -> Inert:
    return Inert("(no source)") if name is None else code(name)


def _trained_on(arm: str) -> Inert:
    if found := re.fullmatch(r"after:(\d{1,3})", arm):
        return Inert(f"as many rows drawn at random after step {int(found[1])}")
    if arm.startswith("source:"):
        return Inert(f"rows of {code(arm.removeprefix('source:'))}")
    return Inert(_ARMS.get(arm, ""))


def _r2(value: float | None) -> Inert:
    return Inert("–") if value is None else share(round(1000 * value), 1000)


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else "nothing"


def _interval(bounds: Any) -> str:
    """` (88.1 % to 93 %)` for shares."""
    if not isinstance(bounds, Sequence) or len(bounds) != 2 or not all(isinstance(bound, float) for bound in bounds):
        return ""
    return f" (95 % interval {number(100 * bounds[0])} % to {number(100 * bounds[1])} %)"


def _points(by_seed: Sequence[float]) -> Inert:
    """Mean over seeds as points, with their standard deviation."""
    mean = 100 * statistics.fmean(by_seed)
    return Inert(f"{mean:.1f} ± {100 * statistics.stdev(by_seed):.1f}" if len(by_seed) > 1 else f"{mean:.1f}")


def _chart(bins: Sequence[Bin]) -> Inert:
    """Shares of the kept and of the rejected rows, as bars of text."""
    kept, rejected = (max(1, sum(getattr(one, side) for one in bins)) for side in ("kept", "rejected"))
    most = max(max(one.kept / kept, one.rejected / rejected) for one in bins)
    names = [
        f"below {number(one.high)}"
        if one.low is None
        else f"{number(one.low)} and more"
        if one.high is None
        else f"{number(one.low)} to {number(one.high)}"
        for one in bins
    ]
    wide = max(map(len, names))
    lines = [f"{'':{wide}}   {'kept rows':<28}   rejected rows"]
    for name, one in zip(names, bins, strict=True):
        sides = [
            f"{share(part, whole):>8} {inert.bar(part / whole / most, cells=18):<19}"
            for part, whole in ((one.kept, kept), (one.rejected, rejected))
        ]
        lines.append(f"{name:>{wide}}   {'   '.join(sides)}".rstrip())
    return inert.fence("\n".join(lines), most=5_000)


def _meaning(field: str) -> Inert | None:
    """What a filter's data sheet says of an output, up to its first full stop; None where there is none."""
    name, _, output = field.partition(".")
    filter_class = known_filters().get(name)
    sheet = inspect.getdoc(filter_class) if filter_class else None
    found = re.search(rf"^( +){re.escape(output)}: (.+(?:\n\1 +.+)*)", sheet or "", re.MULTILINE)
    if found is None:
        return None
    return prose(re.split(r"(?<=[^.].)\. |: |, in [\[(]", " ".join(found[2].split()))[0].rstrip("."))
