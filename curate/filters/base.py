"""What a filter is: a frozen value that scores examples and knows no threshold."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoints, entry_points, packages_distributions, version
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError

from curate.errors import RecipeError, UsageError, near_miss
from curate.examples import Example
from curate.likelihood.statistics import LARGEST_HALF

OutputType = Literal["float64", "int64", "bool", "string", "float64[]", "int64[]", "float16[]"]
Score = float | int | bool | str | Sequence[float | None] | None
Scores = Mapping[str, Score]
"""One value per declared output. None says that this output is not defined for this row; the data sheet says when.

An output with `[]` holds a list per row. It is stored with the annotations and nowhere else: steps decide by one value per row.
"""

REASON = "unscored"
"""Name of the field that stands beside the outputs of every annotation and holds the reason, or null."""


class BackOff(Exception):  # noqa: N818  (a signal between a filter and `annotate`; users never see it)
    """The batches of this shard did not fit into memory; score it again with `frozen(..., backoff=n + 1)`."""


@dataclass(frozen=True)
class Unscored:
    """A row that a filter cannot judge. The reason is a short stable phrase, so that equal reasons can be counted."""

    reason: str


class Filter(BaseModel):
    """A plug-in that scores examples. Its fields are its parameters; its class docstring is its data sheet.

    A subclass overrides `score` (one row) or `score_batch` (many; models), and declares `version`, `reads` and `outputs`.
    A filter that must see the corpus first overrides `fit` and returns a new filter that carries the state.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str] = ""
    """Set by `register`."""
    version: ClassVar[int] = 1
    """Raised whenever the same input would give another number."""
    reads: ClassVar[tuple[str, ...]] = ("messages",)
    """The Example fields that the scores depend on; the reuse key hashes just these."""
    outputs: ClassVar[Mapping[str, OutputType]] = {}
    described_by_identity: ClassVar[tuple[str, ...]] = ()
    """Parameters that only locate something; `identity` says what they point to, and a moved folder changes no score."""

    def score(self, example: Example) -> Scores | Unscored:
        """Score one row; never raises for any text."""
        (result,) = self.score_batch([example])
        return result

    def score_batch(self, examples: Sequence[Example]) -> list[Scores | Unscored]:
        """One result per example, in order."""
        if type(self).derive is not Filter.derive:
            given = {name: filter_.score_batch(examples) for name, filter_ in self.depends().items()}
            return [
                self.derive(example, {name: results[place] for name, results in given.items()})
                for place, example in enumerate(examples)
            ]
        assert type(self).score is not Filter.score, f"{type(self).__name__} overrides none of score, score_batch and derive"
        return [self.score(example) for example in examples]

    def depends(self) -> Mapping[str, "Filter"]:
        """Filters whose annotations this one derives its scores from; each is scored once, however many depend on it."""
        return {}

    def derive(self, example: Example, given: Mapping[str, Scores | Unscored]) -> Scores | Unscored:
        """Score one row from the annotations of the filters in `depends`. Must be cheap."""
        raise NotImplementedError

    def fit(self, examples: Iterable[Example]) -> Self:
        """A filter that knows the corpus. Filters that need none return themselves."""
        return self

    @classmethod
    def needs_corpus(cls) -> bool:
        """Whether `fit` has to see all examples before the first is scored."""
        return cls.fit is not Filter.fit

    def identity(self) -> dict[str, Any]:
        """What the scores depend on beyond name, version and parameters: weights, templates, fitted state."""
        return {}

    def fingerprint(self) -> dict[str, Any]:
        """Everything the scores depend on, as JSON. Two filters with equal fingerprints give equal scores."""
        facts: dict[str, Any] = {"filter": self.name, "version": self.version}
        facts["parameters"] = self.model_dump(mode="json", exclude=set(self.described_by_identity))
        if depends := self.depends():
            facts["depends"] = {name: filter_.fingerprint() for name, filter_ in depends.items()}
        return facts | self.identity() | source_facts(type(self))

    def findings(self) -> dict[str, Any]:
        """What was measured on the way and a reader of the scores should know, such as a cross-validated correlation; as JSON.

        Asked for once, when every row is scored; stored beside the scores and told in the report of a selection.
        """
        return {}

    def check_machine(self) -> list[str]:
        """Raise where this filter cannot run on this machine; what a person should know first. Loads no model, reads no row."""
        return [notice for filter_ in self.depends().values() for notice in filter_.check_machine()]

    def freeze(self) -> dict[str, Any]:
        """What a plan has to hold so that a resumed run gives the same bytes: batch budget, device, library versions."""
        return {}

    def frozen(self, settings: Mapping[str, Any], *, backoff: int = 0) -> Self:
        """This filter bound to what `freeze` gave, its batches halved `backoff` times."""
        return self


@cache
def source_facts(cls: type[Filter]) -> dict[str, str]:
    """For a filter that is not ours, its source file's hash and its package's version: its author may forget to raise `version`.

    Empty for the shipped filters; `package` is there only where an installed distribution holds the filter's module.
    """
    if cls.__module__.startswith("curate."):
        return {}
    try:
        source = Path(inspect.getfile(cls)).read_bytes()
    except (OSError, TypeError):  # defined in a notebook or an interpreter: the class body is the best there is
        try:
            source = inspect.getsource(cls).encode()
        except (OSError, TypeError):
            source = repr(sorted(vars(cls))).encode()
    facts = {"source": xxhash.xxh3_128_hexdigest(source)}
    package = _packages().get(cls.__module__.partition(".")[0])
    return facts | ({"package": package} if package else {})


@cache
def _packages() -> dict[str, str]:
    """Installed distributions by top-level package, as `name==version`."""
    found = {package: [(name, version(name)) for name in set(names)] for package, names in packages_distributions().items()}
    for point in _plugin_points():  # a development install lists no modules; its entry points name them
        if point.dist is not None:
            found.setdefault(point.module.partition(".")[0], []).append((point.dist.name, point.dist.version))
    return {package: ", ".join(sorted({f"{name}=={number}" for name, number in held})) for package, held in found.items()}


def _plugin_points() -> EntryPoints:
    return entry_points(group="curate.filters")


LIST = "[]"
"""Ends the type of an output that holds a list per row."""


def _is_list_of(is_one: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(one is None or is_one(one) for one in value)


_IS: dict[str, Callable[[Any], bool]] = {
    # Whole numbers pass for float64 as far as float64 holds them exactly; True is no number.
    "float64": lambda value: (
        math.isfinite(value) if isinstance(value, float) else type(value) is int and -(2**53) <= value <= 2**53
    ),
    "int64": lambda value: type(value) is int and -(2**63) <= value < 2**63,
    "bool": lambda value: type(value) is bool,
    "string": lambda value: isinstance(value, str) and (value.isascii() or _is_text(value)),
}
_IS |= {f"{kind}{LIST}": _is_list_of(_IS[kind]) for kind in ("float64", "int64")}
_IS["float16[]"] = _is_list_of(lambda value: _IS["float64"](value) and abs(value) <= LARGEST_HALF)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which no file can hold
        return False
    return True


def validate_scores(filter_: Filter, example: Example, result: Scores | Unscored) -> None:
    """Raise UsageError, naming filter, row and what was given, unless a result keeps to the filter's declaration."""
    outputs = filter_.outputs
    if isinstance(result, Unscored):
        if not (isinstance(result.reason, str) and result.reason and _is_text(result.reason)):
            raise UsageError(f"{_place(filter_, example)}: gave {result!r}; a reason is a short phrase")
        return
    if not isinstance(result, dict) and not isinstance(result, Mapping):
        what = f"nothing ({result!r})" if result is None else f"a {type(result).__name__}"
        raise UsageError(f"{_place(filter_, example)}: gave {what}; give one value per output, or Unscored('reason')")
    if result.keys() != outputs.keys():
        raise UsageError(f"{_place(filter_, example)}: declares outputs {_names(outputs)}, gave {_names(result)}")
    for name, value in result.items():
        if value is not None and not _IS[outputs[name]](value):
            raise UsageError(
                f"{_place(filter_, example)}: output {name!r} is {value!r:.80} ({type(value).__name__}), declared "
                f"{outputs[name]}; give a{' finite' * outputs[name].startswith('float')} value of that type, or None"
            )


def _place(filter_: Filter, example: Example) -> str:
    return f"filter {filter_.name!r}, row {example.row}"


def _names(keys: Iterable[object]) -> str:
    return ", ".join(repr(key) for key in keys) or "none"


def validate_batch(filter_: Filter, examples: Sequence[Example], results: Sequence[Scores | Unscored]) -> None:
    """Raise UsageError unless `score_batch` gave one result per example; `validate_scores` looks into each."""
    if not isinstance(results, Sequence):
        raise UsageError(f"filter {filter_.name!r}: score_batch gave a {type(results).__name__}; give a list, one result per row")
    if len(results) != len(examples):
        raise UsageError(
            f"filter {filter_.name!r}: score_batch gave {len(results)} results for {len(examples)} rows; give one per row"
        )


_REGISTRY: dict[str, type[Filter]] = {}
_NAME = r"a filter's name is lower-case letters, digits and underscores"
_TAKEN = {
    *("row", "id", "group", "source", "gold", "tests", "messages", "extra", "prompt", "completion", "prompt_key", "key"),
    *("decision", "rejected_by", "fails", "margin", "is_unscored", "recipe"),
}
"""Columns of rows, annotations, ledger and kept rows: scores stand beside them under their filter's name."""


F = TypeVar("F", bound=Filter)


def register(name: str) -> Callable[[type[F]], type[F]]:
    """Class decorator that makes a filter known under a name, for recipes and the command line."""

    def add(cls: type[F]) -> type[F]:
        if not (name.isidentifier() and name == name.lower()):
            raise UsageError(f"{cls.__qualname__}: {name!r} is no name for a filter; {_NAME}")
        if name in _TAKEN:
            raise UsageError(f"{cls.__qualname__}: {name!r} cannot be a filter's name, it is a column's; choose another")
        if unknown := [kind for kind in cls.outputs.values() if kind not in _IS]:
            raise UsageError(f"filter {name!r}: {unknown[0]!r} is no type of an output; {near_miss(str(unknown[0]), _IS)}")
        if not cls.outputs or REASON in cls.outputs:
            raise UsageError(f"filter {name!r} must declare outputs, none of them called {REASON!r}")
        known = _REGISTRY.get(name)
        # A module that is loaded twice (a notebook cell, a plug-in file) replaces its own filter, never another's.
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise UsageError(f"filter {name!r} is defined twice: {known.__module__}.{known.__qualname__} and {cls.__qualname__}")
        cls.name = name
        _REGISTRY[name] = cls
        return cls

    return add


@cache
def _load_plugins() -> None:
    for point in _plugin_points():
        try:
            point.load()
        except Exception as error:  # foreign code may raise anything; without the package's name nobody could mend it
            package = point.dist.name if point.dist else point.value
            raise UsageError(f"the plug-in {package} ({point.value}) does not load: {error!r}; mend or uninstall it") from error


def known_filters() -> dict[str, type[Filter]]:
    """All filters by name: shipped, installed as plug-ins (entry-point group `curate.filters`), registered by the caller."""
    import curate.filters  # noqa: F401  (its import registers the shipped ones)

    _load_plugins()
    return dict(sorted(_REGISTRY.items()))


def build_filter(name: str, parameters: Mapping[str, Any], *, where: str) -> Filter:
    """The filter called `name` with these parameters; `where` begins every error message."""
    filters = known_filters()
    if name not in filters:
        raise RecipeError(f"{where}: unknown filter {name!r}; {near_miss(name, filters, listing='installed')}")
    cls = filters[name]
    try:
        return cls(**parameters)
    except ValidationError as error:
        raise RecipeError(f"{where}.{name}: {first_complaint(error, cls.model_fields)}") from error


def first_complaint(error: ValidationError, known: Iterable[str]) -> str:
    """The first of pydantic's complaints in one line: key, what is wrong, nearest valid word."""
    complaints = error.errors()
    # A misspelt key also makes the right one missing: the misspelling is the cause.
    first = next((one for one in complaints if one["type"] == "extra_forbidden"), complaints[0])
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}; {near_miss(key, list(known))}"
    message = first["msg"].removeprefix("Value error, ")
    given = "" if isinstance(first["input"], (dict, list)) else f" (given: {first['input']!r})"
    return f"{key}: {message}{given}" if key else message
