"""What a card says, from a run's folder: figures, tables and texts, each made inert for its place."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from curate import _fs
from curate.errors import IntegrityError, UsageError
from curate.hub_cards import inert
from curate.hub_cards.header import configs_of, header_fields, is_repo, licenses_of, split_of
from curate.hub_cards.inert import Inert, code, number, prose, share, table
from curate.hub_cards.ledger import Ledger
from curate.hub_cards.trials_told import Trials
from curate.hub_cards.wording import (
    GROUPS,
    NO_ERRORS,
    SAID_ELSEWHERE,
    SETTINGS,
    chart,
    fields_of,
    in_words,
    interval,
    is_packaged,
    joined,
    meaning_of,
    minimal,
    models_asked,
    r2,
    scrubbed,
    setting,
    without_paths,
)
from curate.rows import RowStore, Shard
from curate.selection.evidence import CALIBRATION, DETECTORS
from curate.selection.report import FEW_ALTERNATIVES, MOSTLY

MOST_SOURCES, MOST_FIELDS, MOST_FILES, EXAMPLES = 30, 12, 20, 3
_PLACEHOLDER = "USER/NAME"
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+]{0,30}", re.ASCII)


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
        self.recipe: Mapping[str, Any] = scrubbed(facts.get("recipe") or decision["recipe"])
        self.steps: Sequence[Mapping[str, Any]] = decision["recipe"]["steps"]
        self.kept_rows = int(decision["kept_rows"])
        self.lock = _fs.read_json(out / "lock.json", "annotations", "packages", "rows", "kept")
        self.rows = RowStore(out / "rows")
        self.ledger = Ledger(out / "selection" / "ledger.parquet")
        self.source: Mapping[str, Any] = facts.get("source") or {}
        self.trials = Trials(out, facts, decision["recipe"])

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
            "recipe_yaml": inert.recipe_yaml(minimal(self.recipe)),
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
            "trial": self.trials.as_context(),
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
        rows = [
            (
                "Rows kept",
                Inert(f"{number(self.kept_rows)} of {number(self.rows.count)} ({share(self.kept_rows, self.rows.count)})"),
            ),
            ("Taken from", self._source_name()),
            ("Chosen by recipe", code(self.recipe["name"])),
            ("Scored with model", Inert("; ".join(model for model, _ in self._models()) or "none: this recipe asks no model")),
            ("Tested by training", self.trials.word),
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
            for asked, role in models_asked(entry["fingerprint"]):
                label = self._model_name(asked[role], str(entry["folder"]), role)
                settings = [what.format(setting(asked[key])) for key, what in SETTINGS.items() if asked.get(key)]
                users = found.get(label, (Inert(""), Inert("")))[1]
                known = [part for part in users.split("; ") if part]
                told = f"asked by {code(name)}" + (f" ({', '.join(settings)})" if settings else "")
                found[label] = (label, Inert("; ".join([*known, *([told] if told not in known else [])])))
        return list(found.values())

    def _model_name(self, identity: Any, folder: str, role: str) -> Inert:
        if isinstance(identity, Mapping) and is_repo(identity.get("repository")):
            name, revision = str(identity["repository"]), str(identity.get("revision", ""))
            at = f" at revision {code(revision[:12])}" if revision else ""
            return Inert(f"{inert.link(name, f'https://huggingface.co/{name}')}{at}")
        if is_packaged(identity):
            return Inert("the small reference model that comes with `curate`")
        try:
            plan = _fs.read_json(self.out / "annotations" / folder / "plan.json")
        except IntegrityError:  # lies in another run's folder (`--reuse`)
            plan = {}
        asked = plan.get("parameters")
        where = asked.get(role) if isinstance(asked, Mapping) else None
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
                in_words(self.steps[place - 1] if place <= len(self.steps) else {}),
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
                parts = [f"{number(count)} rows with {GROUPS.get(name) or code(name)}" for name, count in ranked.items()]
                yield Inert(f"Step {place} compared {joined(parts)}.")
            if step["unscored"]:
                yield Inert(f"Step {place} could not judge {number(step['unscored'])} rows: they have no score. {self._policy()}")
            for part in step["portions"]:
                source = self._source_label(part["source"])
                yield Inert(
                    f"Step {place} took {number(part['got'])} of {number(part['available'])} rows of {source}, "
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
        lines = [(self._source_label(source), cross.get(source, {})) for source in ordered[:MOST_SOURCES]]
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

    @cached_property
    def _hidden(self) -> dict[str, str]:
        """What stands for the sources' names where some of them are text of rows, and are published as hashes only."""
        if "source" not in (self.facts.get("hashed") or ()):
            return {}
        named = [str(entry["source"]) for entry in self.report["sources"] if entry["source"] is not None]
        named += [source for source in self.ledger.crosstab() if source is not None and source not in named]
        return {name: f"source {place}" for place, name in enumerate(named, 1)}

    def _source_label(self, name: str | None) -> Inert:
        if name is None:
            return Inert("(no source)")
        return code(self._hidden.get(name, "withheld") if self._hidden else name)

    def _without_sources(self, text: str) -> str:
        """A sentence of the run's without the names that are not to be told, longest first: one may hold another."""
        for name in sorted(self._hidden, key=len, reverse=True):
            text = text.replace(name, self._hidden[name]) if name else text
        return text

    def _step_fields(self) -> list[str]:
        return list(dict.fromkeys(field for step in self.steps for field in fields_of(step)))

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
        return {"field": code(field), "chart": chart(bins)} if bins else None

    def _meanings(self) -> Inert | None:
        """What the published scores are, for who has not read the filters' data sheets."""
        named: Mapping[str, str] = self.facts.get("columns") or {}
        by_field = {field: column for column, field in named.items()}
        fields = [
            field for field in self.ledger.fields if field.partition(".")[2] != "unscored" and (not named or field in by_field)
        ]
        rows = [[code(by_field.get(field, field)), meaning] for field in fields if (meaning := meaning_of(field)) is not None]
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
                f"The length of a completion alone explains {r2(by_length)} of the decisions, its source alone "
                f"{r2(by_source)}, both together {r2(both)} (R squared of an additive model)."
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
                meaning_of(flag.field) or Inert(""),
                number(flag.found if flag.checked else None, absent="not checked"),
                number(flag.found_kept if flag.checked_kept else None, absent="not checked"),
                share(flag.found_kept, flag.checked_kept),
            ]
            for flag in self.ledger.flags(filter_name)
            if flag.field not in NO_ERRORS and (flag.checked or flag.field in self._step_fields())
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
                f"{code(field)} finds a machine-written row more machine-like than a human-written one in "
                f"{number(100 * figures['auroc'])} % of pairs"
                f"{interval(entry.get('auroc_interval'))} (50 % is chance){counts}. At a threshold that accuses 1 % of the "
                f"human rows it finds {number(100 * figures['found_at_1'])} % of the machine-written ones"
                f"{interval(entry.get('found_at_1_interval'))}."
            )

    # --- limits, reproduction, provenance ---

    def _limits(self) -> Iterator[Inert]:
        read = "Nobody has read these rows for this card: all figures come from programs"
        yield Inert(f"{read}, and rows that no score speaks against may still be wrong, harmful or private.")
        if self._models():
            yield Inert("Scores are the opinion of the models named here; for another model other rows may be the better ones.")
        for name, reasons in self.ledger.unscored().items():
            if f"{name}.unscored" in (self.facts.get("left_out") or ()):
                counts = list(reasons.values())
                reasons = {"withheld": (sum(rows for rows, _ in counts), sum(kept for _, kept in counts))} if counts else {}
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
            if not any(known in warning for known in SAID_ELSEWHERE):
                told = without_paths(self._without_sources(warning).removesuffix(": read the examples of them"))
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
            yield Inert(f"The source states as its licence {joined([code(text) for text in found])}.")
        if source.get("is_gated"):
            yield Inert("The source is gated: who wants it has to accept its terms.")
        if source.get("is_private"):
            yield Inert("The source is private.")
        names = [entry["source"] for entry in self.report["sources"] if entry["source"] is not None]
        if names:
            more = f" and {number(len(names) - MOST_SOURCES)} more" if len(names) > MOST_SOURCES else ""
            listed = ", ".join(self._source_label(name) for name in names[:MOST_SOURCES])
            yield Inert(f"Who wrote the completions, as the rows themselves say: {listed}{more}.")
            if self._hidden:
                yield Inert("Names of sources are withheld, since some of them are text of rows.")
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
                "source": self._source_label(example.source),
                "prompt": inert.fence("\n".join(message["content"] for message in example.messages[:-1])),
                "completion": inert.fence(example.completion),
            }
