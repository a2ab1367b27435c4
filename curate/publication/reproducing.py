"""Whether a publication is what it says: the kept rows decided again from recipe, lock and scores, and every file compared."""

import contextlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curate import _fs
from curate.errors import CurateError, IntegrityError
from curate.examples import stable_hash
from curate.publication.opened import FACTS, FOLDERS, Publication, open_publication
from curate.publication.recutting import decide
from curate.publication.restoring import Restored, restore
from curate.recipes import Recipe
from curate.recipes.hub import RECIPE
from curate.selection import Selection

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN = 5


@dataclass(frozen=True)
class Check:
    """One thing that has to be true of a publication."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Reproduction:
    """What was checked, and whether all of it holds."""

    publication: str
    commit: str | None
    rows: int
    kept: int
    checks: list[Check]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "passed": self.passed}

    def lines(self) -> list[str]:
        """The result in words."""
        said = [f"{'ok    ' if check.passed else 'FAILED'} {check.name}: {check.detail}" for check in self.checks]
        verdict = "the kept rows follow from recipe and scores" if self.passed else "NOT reproduced"
        return [f"{self.publication}: {self.kept:,} of {self.rows:,} rows kept", *said, verdict]


def require_reproduced(found: Reproduction) -> None:
    """Raise IntegrityError where a check failed."""
    failed = [check for check in found.checks if not check.passed]
    if failed:
        raise IntegrityError(f"{found.publication}: {len(failed)} checks failed; the first: {failed[0].name}: {failed[0].detail}")


def reproduce(source: str | Path | Publication, *, revision: str | None = None) -> Reproduction:
    """Decide about every row again and compare with what was published; all checks are made, also after one has failed.

    Raises only where there is no publication to check, or its `publication.json` is not one.
    """
    publication = source if isinstance(source, Publication) else open_publication(source, revision=revision)
    return _Checker(publication).run()


class _Failed(Exception):  # noqa: N818  (ends one check; users never see it)
    """What is wrong."""


class _Checker:
    def __init__(self, publication: Publication) -> None:
        self.publication = publication
        self.checks: list[Check] = []

    def run(self) -> Reproduction:
        publication = self.publication
        with self._checking("facts") as said:
            said.append(self._facts())
        with self._checking("files") as said:
            said.append(self._files())
        with self._checking("recipe") as said:
            said.append(self._recipe())
        with self._checking("lock") as said:
            said.append(self._lock())
        with tempfile.TemporaryDirectory(prefix="curate-") as folder:
            self._select(Path(folder) / "run")
        return Reproduction(publication.name, publication.commit, publication.checked.rows, publication.checked.kept, self.checks)

    @contextlib.contextmanager
    def _checking(self, name: str) -> Iterator[list[str]]:
        """One check; whatever a damaged file makes go wrong inside it is what it found."""
        import pyarrow as pa

        said: list[str] = []
        try:
            yield said
        except (_Failed, CurateError) as error:
            self.checks.append(Check(name, passed=False, detail=str(error)))
        except (
            pa.ArrowException,
            KeyError,
            TypeError,
            ValueError,
            IndexError,
            AttributeError,
            OverflowError,
            RecursionError,
        ) as error:
            self.checks.append(Check(name, passed=False, detail=f"cannot be read ({type(error).__name__}: {str(error)[:200]})"))
        else:
            self.checks.append(Check(name, passed=True, detail="; ".join(said)))

    def _facts(self) -> str:
        """`publication.json` is in the form in which it is written: a byte changed between the values shows."""
        raw, data = self.publication.facts_file.read_bytes(), dict(self.publication.facts)
        written = (json.dumps(data, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()
        _require(raw == written, f"{FACTS} is not as curate writes it")
        if "seal" in data:
            seal = data.pop("seal")
            _require(stable_hash(data) == seal, f"{FACTS} is not what its seal says")
        return f"{FACTS} is as it was written"

    def _files(self) -> str:
        """Every file has the bytes that were published, and no other Parquet file lies beside them."""
        wrong = []
        for path in sorted(self.publication.checked.files):
            try:
                self.publication.path(path)
            except CurateError:
                wrong.append(path)
        _require(not wrong, f"missing or changed: {_some(wrong)}")
        return f"{len(self.publication.checked.files)} files have the sha256 that {FACTS} lists"

    def _recipe(self) -> str:
        """The three places that hold the recipe agree."""
        facts, lock = self.publication.facts, self.publication.lock
        found = json.loads(json.dumps(self.publication.recipe().as_data()))
        _require(found == facts["recipe"], f"{RECIPE} is not the recipe of {FACTS} ({_first_difference(found, facts['recipe'])})")
        _require(found == lock.get("recipe"), f"{RECIPE} is not the recipe of lock.json")
        digest = facts["recipe_hash"]
        _require(digest == lock.get("recipe_hash"), f"lock.json speaks of a recipe of another hash than {FACTS}")
        if not any(
            str(place).startswith("recipe.") for place in facts.get("cleaned", [])
        ):  # its paths were taken out after hashing
            _require(stable_hash(found) == digest, f"its hash is not {digest}")
        return f"{found['name']} ({len(found['steps'])} steps), hash {facts['recipe_hash']}"

    def _lock(self) -> str:
        """The lock speaks of this selection."""
        facts, lock = self.publication.facts, self.publication.lock
        _require(lock["rows"]["count"] == facts["rows"], "lock.json counts other rows")
        _require(lock["kept"]["rows"] == facts["kept"], "lock.json counts other kept rows")
        _require(lock["kept"]["hash"] == facts["kept_hash"], "lock.json has another hash of the kept rows")
        wanting = sorted(set(self.publication.filters()) ^ set(lock["annotations"]))
        _require(not wanting, f"lock.json and scores/ do not speak of the same filters: {_some(wanting)}")
        return f"{facts['kept']:,} of {facts['rows']:,} rows, kept hash {facts['kept_hash']}"

    def _select(self, folder: Path) -> None:
        """What needs the rows and scores as a run's folder."""
        selection: Selection | None = None
        restored: Restored | None = None
        with _fs.run_folder(folder):
            with self._checking("texts") as said:
                restored = restore(self.publication, folder)
                said.append(self._texts(restored))
            with self._checking("decisions") as said:
                _require(restored is not None, "not checked: rows and scores cannot be read")
                assert restored is not None
                recipe = Recipe(**json.loads(json.dumps(self.publication.facts["recipe"])))
                selection = decide(self.publication, restored.annotations, recipe)
                said.append(self._decisions(selection))
            with self._checking("ledger") as said:
                _require(selection is not None, "not checked: nothing could be decided")
                assert selection is not None
                said.append(self._ledger(selection))
            with self._checking("kept rows") as said:
                _require(selection is not None, "not checked: nothing could be decided")
                assert selection is not None
                said.append(self._kept(selection))
            with self._checking("kept hash") as said:
                _require(selection is not None, "not checked: nothing could be decided")
                assert selection is not None
                said.append(self._kept_hash(selection, folder))

    def _texts(self, restored: Restored) -> str:
        """The published rows hold the text that was scored."""
        changed = [str(row) for row in restored.changed.tolist()]
        _require(not changed, f"{len(changed):,} rows do not hold the text, id or source that was scored: {_some(changed)}")
        return f"{int(restored.published.sum()):,} published rows hold the text that was scored"

    def _decisions(self, selection: Selection) -> str:
        """The recipe decides about every row what `scores` say that it decided."""
        table = self.publication.scores(["kept", "rejected_by", "margin"])
        steps = [str(step) for step in selection.recipe.steps]
        rejected_by = [None if step < 0 else steps[step] for step in selection.rejected_by.tolist()]
        said = table["rejected_by"].to_pylist()
        wrong = [
            str(row) for row, (now, then) in enumerate(zip(rejected_by, said, strict=True)) if _unordered(now) != _unordered(then)
        ]
        _require(not wrong, f"{len(wrong):,} rows are decided otherwise: {_some(wrong)}")
        kept = table["kept"].to_numpy(zero_copy_only=False)
        _require(np.array_equal(kept, selection.kept), "`kept` and `rejected_by` of scores/ contradict each other")
        _require(int(kept.sum()) == self.publication.checked.kept, "scores/ keeps another number of rows than announced")
        margins = np.where(np.isfinite(selection.margin), selection.margin, np.nan)
        there = _floats(table["margin"])
        off = np.flatnonzero(~((margins == there) | (np.isnan(margins) & np.isnan(there))))
        _require(not len(off), f"{len(off):,} margins are others: rows {_some(list(map(str, off.tolist())))}")
        return f"{len(said):,} rows decided as published, by the same steps and margins"

    def _ledger(self, selection: Selection) -> str:
        """The ledger tells of the same rows, decisions and scores as `scores`."""
        ledger, scores = self.publication.ledger(), self.publication.scores()
        _require(ledger.num_rows == scores.num_rows, f"holds {ledger.num_rows:,} rows where scores/ holds {scores.num_rows:,}")
        for name in ("row", "id", "source", "prompt_key", "rejected_by", "margin"):
            _require(_equal(ledger[name], scores[name]), f"its column {name} is not that of scores/")
        kept = np.array([decision == "kept" for decision in ledger["decision"].to_pylist()])
        _require(np.array_equal(kept, selection.kept), "its decisions are not those of scores/")
        _require(set(ledger["decision"].to_pylist()) <= {"kept", "rejected"}, "holds decisions that there are not")
        unscored = ledger["is_unscored"].to_numpy(zero_copy_only=False)
        _require(np.array_equal(unscored, selection.for_being_unscored), "its column is_unscored is another")
        failing = {name: rows.tolist() for name, rows in selection.failing().items()}
        fails = [[name for name, rows in failing.items() if rows[row]] for row in range(scores.num_rows)]
        _require(ledger["fails"].to_pylist() == fails, "its column fails is another")
        for name, outputs in self.publication.filters().items():
            structs = ledger[name].combine_chunks()
            for output, column in outputs.items():
                _require(_equal(structs.field(output), scores[column]), f"its {name}.{output} is not that of scores/")
        return f"{ledger.num_rows:,} decisions and {len(self.publication.checked.columns)} columns of scores as in scores/"

    def _kept(self, selection: Selection) -> str:
        """`data` holds exactly the kept rows, in order; `rejected`, where published, exactly the others."""
        found = self._row_numbers("default")
        _require(len(found) == len(selection.order), f"data/ holds {len(found):,} rows where {len(selection.order):,} are kept")
        _require(np.array_equal(found, selection.order), "data/ holds other rows than are kept, or in another order")
        said = f"{len(found):,} kept rows, in order"
        if self.publication.has_rejected or "rejected" in self.publication.facts["configs"]:
            others, wanted = self._row_numbers("rejected"), np.flatnonzero(~selection.kept)
            left_out = self.publication.facts.get("rejected_left_out", 0)  # rows of several turns, which strings cannot hold
            _require(
                len(others) == len(wanted) - left_out
                and bool(np.isin(others, wanted).all())
                and bool((np.diff(others) > 0).all()),
                "rejected/ does not hold exactly the rejected rows",
            )
            said += f"; {len(others):,} rejected rows"
        wrong = [
            path
            for config in FOLDERS
            for path in self.publication.shards(config)
            if self.publication.checked.files[path].get("rows") not in (None, self._count(path))
        ]
        _require(not wrong, f"hold another number of rows than announced: {_some(wrong)}")
        return said

    def _row_numbers(self, config: str) -> Any:
        tables = [table["row"].to_numpy() for table in self.publication.batches(config, ["row"])]
        return np.concatenate(tables) if tables else np.array([], dtype=np.int64)

    def _count(self, path: str) -> int:
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.publication.path(path)) as file:
            return int(file.metadata.num_rows)

    def _kept_hash(self, selection: Selection, folder: Path) -> str:
        """The files of kept rows, written again, have the hash that the lock pins."""
        from curate.selection.output import save_selection

        lock = save_selection(selection, selection.report, folder)
        wanted, found = self.publication.facts["kept_hash"], lock["kept"]["hash"]
        if wanted != found and not self.publication.checked.shards:
            return "not compared: the publication does not say how the run's files were divided; all rows agree"
        then = self.publication.lock.get("packages", {}).get("pyarrow")
        if wanted != found and then != version("pyarrow"):
            return f"not compared: files of pyarrow {then} differ in bytes from those of {version('pyarrow')}; all rows agree"
        _require(wanted == found, f"the kept rows, written again, have the hash {found}, not {wanted}")
        return f"the kept rows, written again, have the hash {wanted}"


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise _Failed(what)


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")


@cache
def _unordered(step: str | None) -> Any:
    """A step's name; of a mixture without the order of its shares, which JSON does not keep."""
    return tuple(sorted(re.split(r", | \(", step.removeprefix("mix ")))) if step and step.startswith("mix ") else step


def _first_difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """The first key in which two recipes differ."""
    return next((key for key in sorted({*a, *b}) if a.get(key) != b.get(key)), "nothing")


def _floats(column: "pa.ChunkedArray") -> Any:
    """Numbers, nan where there is none."""
    return column.combine_chunks().to_numpy(zero_copy_only=False).astype(np.float64)


def _equal(a: Any, b: Any) -> bool:
    """Whether two columns hold the same values, nan beside nan being one."""
    import pyarrow as pa

    left, right = (column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column for column in (a, b))
    if left.equals(right):
        return True
    if not (pa.types.is_floating(left.type) and pa.types.is_floating(right.type)) or left.null_count != right.null_count:
        return False
    return bool(np.array_equal(left.to_numpy(zero_copy_only=False), right.to_numpy(zero_copy_only=False), equal_nan=True))
