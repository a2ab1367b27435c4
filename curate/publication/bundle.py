"""build(): the files of a publication, out of a finished run. This list of files and nothing else ever leaves the machine."""

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate import _fs, progress
from curate.errors import IntegrityError, UsageError
from curate.examples import stable_hash
from curate.publication.facts import cleaned, is_synthetic, recipe_yaml, step_names, trial_of
from curate.publication.license import known_license, require_publishable, source_of
from curate.publication.parts import FILE_BYTES, PartWriter, batches, described
from curate.publication.scores import Ledger, Survey, ledger_schema, public_parts, scores_schema, survey
from curate.rows import MANIFEST, RowStore, Shard

if TYPE_CHECKING:
    import pyarrow as pa

CARD, FACTS, RECIPE, LOCK, LEDGER, TRIAL = (
    "README.md",
    "curate/publication.json",
    "curate/recipe.yaml",
    "curate/lock.json",
    "curate/ledger.parquet",
    "curate/trial.json",
)
FOLDERS = {"default": "data", "scores": "scores", "rejected": "rejected"}
"""Where the files of a configuration lie."""
_KEYS = ("curate", "split", "rows", "kept", "recipe", "kept_hash", "files", "columns", "configs", "source")


@dataclass(frozen=True)
class Bundle:
    """A publication as a folder, complete; the same files stand in the repository."""

    folder: Path
    facts: Mapping[str, Any]
    """Content of `curate/publication.json`."""
    files: list[str]
    """Paths of all files, as in the repository."""


def build(
    out: Path,
    into: Path,
    *,
    public: bool = False,
    with_rejected: bool = False,
    private_source: bool | None = None,
    license: str | None = None,
    repo: str | None = None,
    with_examples: bool = False,
    most_bytes: int = FILE_BYTES,
) -> Bundle:
    """Make the folder `into` of what is published of the run `out`; equal runs give equal bytes.

    Args:
        out: a run's folder with a selection.
        into: a new or empty folder, or an earlier publication, which is replaced when the new one is complete.
        public: the rows are for everybody: refuse where licence or source forbid it, or do not say. Changes no byte.
        with_rejected: publish the rejected rows, too.
        private_source: what the publisher says of the source: private, or (False) free to be published although the Hub says
            otherwise. None: as the Hub says.
        license: the licence of the rows, as an identifier of the Hub; default: that of the source.
        repo: the repository's name, for the card.
        with_examples: show a few rows on the card.
        most_bytes: about how long a file of rows may be.

    Raises:
        UsageError: there is no selection, it keeps nothing, or `into` holds something else.
        InputError: the rows may not be published, with what forbids it and the way on.
        IntegrityError: a file of the run is not what was committed.
    """
    with _fs.run_folder(_finished(out)):  # nobody may select again while the rows are copied
        run = _Run.open(out)
        chosen = known_license(license) if license is not None else None
        stated = {"license": chosen, "private_source": private_source}
        source = source_of(run.rows.manifest)
        rights = {
            "license": chosen or (source["license"] if isinstance(source["license"], str) else None),
            "source": source,
            "stated": stated,
        }
        if public:
            require_publishable(rights)
        _refuse_foreign(into)
        _fs.finish_replacement(into)
        new = into.with_name(f"{_fs.TEMPORARY}{into.name}")
        shutil.rmtree(new, ignore_errors=True)  # of a build that was killed
        try:
            _fs.make_folder(new / "curate")
            facts = _Writing(run, new, rights, most_bytes).write(with_rejected=with_rejected)
            card = _card(out, facts, repo=repo, with_examples=with_examples)
            _fs.commit_bytes(new / CARD, card.encode())
            _fs.commit_json(new / FACTS, facts)
            _fs.replace_folder(new, into)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
    return Bundle(into, facts, _files(facts))


def _card(out: Path, facts: Mapping[str, Any], *, repo: str | None, with_examples: bool) -> str:
    from curate.hub_cards import render_card

    repo = repo.removeprefix("hf://").removeprefix("datasets/") if repo else None
    return render_card(out, facts, repo=repo, license=facts["license"], with_examples=with_examples)


def load_bundle(folder: Path) -> Bundle:
    """A publication that `build` has made. Raises UsageError where the folder is none, IntegrityError where a file is damaged."""
    if not (folder / FACTS).is_file():
        raise UsageError(f"{folder}: is no publication (it has no {FACTS}); make one from a run")
    facts = _fs.read_json(folder / FACTS, *_KEYS)
    for name, entry in facts["files"].items():
        if not _fs.entry_holds(folder, {"file": name, **entry}):
            raise IntegrityError(f"{folder / name}: missing or not what was published; build the publication again")
    return Bundle(folder, facts, _files(facts))


def _files(facts: Mapping[str, Any]) -> list[str]:
    return sorted([*facts["files"], CARD, FACTS])


def _refuse_foreign(into: Path) -> None:
    """Raise UsageError unless the folder may be replaced: it is absent, empty, or a publication and nothing else."""
    on = "choose a new or empty folder"
    if into.is_symlink() or (into.exists() and not into.is_dir()):
        raise UsageError(f"{into}: is no folder; {on}")
    if not into.exists() or not any(into.iterdir()):
        return
    try:
        ours = set(_files(_fs.read_json(into / FACTS, *_KEYS)))
    except IntegrityError as error:
        raise UsageError(f"{into}: holds files that are no publication's; {on}") from error
    there = {path.relative_to(into).as_posix() for path in into.rglob("*") if not path.is_dir()}
    if foreign := sorted(name for name in there - ours if not Path(name).name.startswith(_fs.TEMPORARY)):
        raise UsageError(f"{into}: holds {foreign[0]}, which is not of the publication; move it, or {on}")


def _finished(out: Path) -> Path:
    """The folder, if it is a run's with a selection."""
    RowStore(out / "rows")
    if not (out / "selection" / "selection.json").is_file() or not (out / "lock.json").is_file():
        raise UsageError(f"{out}: holds no selection to publish; run `curate select {out} --recipe NAME` first")
    return out


@dataclass(frozen=True)
class _Run:
    """A finished run whose files are known to be those that were committed."""

    out: Path
    rows: RowStore
    decision: Mapping[str, Any]
    lock: Mapping[str, Any]

    @classmethod
    def open(cls, out: Path) -> "_Run":
        """Re-hash everything that is published or decides what is. Raises IntegrityError where something differs."""
        decision = _fs.read_json(out / "selection" / "selection.json", "recipe", "kept", "kept_rows", "kept_hash", "ledger")
        lock = _fs.read_json(out / "lock.json", "kept", "files", "rows", "recipe_hash", "annotations")
        run = cls(out, RowStore(out / "rows"), decision, lock)
        if not decision["kept_rows"]:
            raise UsageError(f"{out}: the selection keeps no row; there is nothing to publish")
        if (wrong := next(run._problems(), None)) is not None:
            raise IntegrityError(f"{wrong}; run `curate verify {out}`, then `curate select` again")
        return run

    def _problems(self) -> Iterator[str]:
        for name in (f"rows/{MANIFEST}", "selection/selection.json"):
            if _fs.sha256(self.out / name) != self.lock["files"].get(name):
                yield f"{self.out / name}: not what lock.json lists"
        kept_hash = stable_hash([part["sha256"] for part in self.decision["kept"]])
        if not kept_hash == self.decision["kept_hash"] == self.lock["kept"]["hash"]:
            yield f"{self.out / 'lock.json'}: speaks of another selection"
        if self.lock["rows"]["identity"] != self.rows.identity:
            yield f"{self.out / 'lock.json'}: speaks of other rows"
        entries = [(self.out / "selection" / "kept", part) for part in self.decision["kept"]]
        entries += [(self.out / "selection", self.decision["ledger"])]
        entries += [(self.rows.folder, part) for part in self.rows.manifest["parts"]]
        for folder, entry in entries:
            if not _fs.entry_holds(folder, entry):
                yield f"{folder / entry['file']}: missing or not what was committed"

    @property
    def split(self) -> str:
        """The split that was read. Names on the Hub hold letters, digits, underscores and dots."""
        return (
            re.sub(r"[^\w.]+", "_", str(self.rows.manifest["input"].get("split") or "train"), flags=re.ASCII).strip(".")
            or "train"
        )

    @property
    def kept(self) -> list[Path]:
        """The files of kept rows, in their order."""
        return [self.out / "selection" / "kept" / part["file"] for part in self.decision["kept"]]


class _Writing:
    """All files but card and facts."""

    def __init__(self, run: _Run, new: Path, rights: Mapping[str, Any], most_bytes: int) -> None:
        self.run, self.new, self.rights, self.most_bytes = run, new, rights, most_bytes
        self.cleaned: list[str] = []
        self.recipe = cleaned(run.decision["recipe"], where="recipe", found=self.cleaned)
        self.files: dict[str, dict[str, Any]] = {}

    def write(self, *, with_rejected: bool) -> dict[str, Any]:
        """Write them; returns the content of publication.json."""
        ledger = Ledger(self.run.out / "selection" / "ledger.parquet", self.run.rows)
        found = survey(ledger, self.run.lock)
        self._kept()
        several = self._scores(ledger, found, with_rejected=with_rejected)
        trial = trial_of(self.run.out, self.run.decision["recipe"], self.run.lock, self.run.rows)
        self._small(RECIPE, recipe_yaml(self.recipe))
        self._json(LOCK, self.run.lock)
        if trial is not None:
            self._json(TRIAL, trial[1].data)
        configs = [name for name, folder in FOLDERS.items() if any(path.startswith(f"{folder}/") for path in self.files)]
        counts = {name: sum(entry.get("rows", 0) for path, entry in self.files.items() if path.startswith(f"{folder}/"))
                  for name, folder in FOLDERS.items()}  # fmt: skip
        if counts["default"] != self.run.decision["kept_rows"] or counts["scores"] != self.run.rows.count:
            raise IntegrityError(f"{self.run.out}: {counts} rows written of {self.run.rows.count}; run `curate verify`")
        facts = {
            "format": _fs.FORMAT,
            "curate": _version(),
            "split": self.run.split,
            "rows": self.run.rows.count,
            "kept": counts["default"],
            "rejected": counts["rejected"] if "rejected" in configs else None,
            "rejected_left_out": several,
            "refused": int(self.run.rows.manifest["refused"]["rows"]),
            "recipe": self.recipe,
            "recipe_hash": self.run.lock["recipe_hash"],
            "kept_hash": self.run.lock["kept"]["hash"],
            "files": dict(sorted(self.files.items())),
            "columns": {column.name: column.field for column in found.columns},
            "left_out": list(found.left_out),
            "hashed": list(found.hashed),
            "cleaned": sorted(set(self.cleaned)),
            "configs": configs,
            "trial": None if trial is None else trial[0],
            "synthetic": is_synthetic(found.sources if "rejected" in configs else found.kept_sources, self.recipe),
            "shards": [shard.stop for shard in self.run.rows.shards],
            **cleaned(self.rights),
        }
        return facts | {"seal": stable_hash(facts)}

    def _kept(self) -> None:
        writer: PartWriter | None = None
        with progress.measuring("publishing kept rows", self.run.decision["kept_rows"]):
            for path in self.run.kept:
                for table in batches(path):
                    writer = writer or self._writer("data", table.schema)
                    writer.write(table)
                    progress.tick(rows=table.num_rows)
        assert writer is not None, "a selection that keeps rows has files of them"
        self._finish(writer, "data")

    def _scores(self, ledger: Ledger, found: Survey, *, with_rejected: bool) -> int:
        """Scores, ledger and, on request, rejected rows, in one pass; returns how many of those have no such layout."""
        scores = self._writer("scores", scores_schema(ledger, found))
        public = PartWriter(self.new / "curate", ledger_schema(ledger, found), most_bytes=1 << 62)
        rejected = _Rejected(self.run) if with_rejected else None
        beside = self._writer("rejected", rejected.schema) if rejected else None
        with progress.measuring("publishing scores", self.run.rows.count):
            for part in public_parts(ledger, found, step_names(self.run.decision["recipe"], self.recipe)):
                scores.write(part.scores)
                public.write(part.ledger)
                if rejected is not None and beside is not None:
                    beside.write(rejected.table(part.shard, part.rejected))
                progress.tick(rows=part.scores.num_rows)
        self._finish(scores, "scores")
        self.files |= described(public.finish(Path(LEDGER).name), "curate")
        if beside is not None:
            self._finish(beside, "rejected")
        return rejected.left_out if rejected else 0

    def _writer(self, folder: str, schema: "pa.Schema") -> PartWriter:
        return PartWriter(self.new / folder, schema, most_bytes=self.most_bytes)

    def _finish(self, writer: PartWriter, folder: str) -> None:
        found = writer.finish(self.run.split + "-{i:05d}-of-{n:05d}.parquet")
        self.files |= described(found, folder)
        if not found:
            writer.folder.rmdir()  # nothing was rejected

    def _json(self, name: str, value: Mapping[str, Any]) -> None:
        where = Path(name).stem
        _fs.commit_json(self.new / name, cleaned(value, where=where, found=self.cleaned))
        self._list(name)

    def _small(self, name: str, data: bytes) -> None:
        _fs.commit_bytes(self.new / name, data)
        self._list(name)

    def _list(self, name: str) -> None:
        path = self.new / name
        self.files[name] = {"bytes": path.stat().st_size, "sha256": _fs.sha256(path)}


class _Rejected:
    """Rejected rows in the layout of the kept ones."""

    def __init__(self, run: _Run) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.rows = run.rows
        self.schema: pa.Schema = pq.read_schema(run.kept[0], memory_map=False)
        self.conversational = not pa.types.is_string(self.schema.field("prompt").type)
        self.extra, self.rest = run.rows.extra_types(), run.rows.rest_column()
        self.left_out = 0
        """Rows of several turns, which two strings cannot hold."""

    def table(self, shard: Shard, mask: "pa.Array") -> "pa.Table":
        """The rejected rows of a shard."""
        import pyarrow.compute as pc

        from curate.rows import FACTS as OPTIONAL
        from curate.selection.output import trl_ready

        table = self.rows.read(shard).filter(mask)
        if not self.conversational:
            fits = pc.less_equal(pc.list_value_length(table["messages"]), 2)
            self.left_out += table.num_rows - int(pc.sum(fits).as_py() or 0)
            table = table.filter(fits)
        if not table.num_rows:
            return self.schema.empty_table()
        table = table.drop_columns([name for name in OPTIONAL if name not in self.rows.facts])
        return trl_ready(table, self.extra, self.rest, conversational=self.conversational).cast(self.schema)


def _version() -> str:
    try:
        return version("curate-sft")
    except PackageNotFoundError:
        return "unknown"
