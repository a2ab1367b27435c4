"""What a recipe may say. Every class is one construct of the YAML file; an unknown key is an error, not a default."""

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    Strict,
    ValidationError,
    field_validator,
    model_validator,
)

from curate.errors import RecipeError, UsageError, near_miss
from curate.filters import Filter, build_filter, known_filters
from curate.filters.base import LIST, first_complaint
from curate.recipes.trial import TrialSettings

Group = Literal["prompt", "stratum", "source", "dataset"]
Policy = Literal["keep", "drop", "error"]
TARGET = "target"
"""Written for a filter's `model`, it stands for the model of the run."""
FOLDER = Path(__file__).parent


def shipped_recipes() -> dict[str, Path]:
    """The packaged recipes by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


class Settings(BaseModel):
    """Base of everything that a user writes: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# Short on purpose: the fraction that "1e999999999" stands for has a billion digits.
_SHARE = re.compile(
    r"([0-9]{1,20}(?:\.[0-9]{0,20})?(?:e[+-]?[0-9]{1,2})?|[0-9]{1,40}/0*[1-9][0-9]{0,40}) ?(%?)", re.ASCII | re.IGNORECASE
)


class Amount(Settings):
    """How many rows of a group: a share (exact, as written) or a count."""

    share: Fraction | None = None
    count: int | None = None

    @model_validator(mode="after")
    def _can_be_meant(self) -> Self:
        if (self.share is None) == (self.count is None):
            raise ValueError("must be a share such as 50% or a count such as 500")
        if self.count is not None and self.count < 1:
            raise ValueError("a count must be at least 1")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError("a share must be above 0 % and at most 100 %")
        return self

    @classmethod
    def parse(cls, value: Any) -> Any:
        """`50%`, 0.5 (a share) or 500 (a count). 1.0 is refused: it can be meant as all rows and as one."""
        if isinstance(value, Amount):
            return value
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError("must be a share such as 50% or a count such as 500")  # noqa: TRY004  (pydantic wants ValueError)
        # One sentence for what is wrong, whichever way pydantic would nest it.
        try:
            return cls(count=value) if isinstance(value, int) else cls(share=_share(str(value).strip()))
        except ValidationError as error:
            raise ValueError(first_complaint(error, ())) from None

    def of(self, rows: int) -> int:
        """Rows kept of `rows`: floor(share x rows + 1/2), at least 1; a count, or all where there are fewer."""
        if self.count is not None:
            return min(self.count, rows)
        assert self.share is not None
        return min(rows, max(1, int(self.share * rows + Fraction(1, 2)))) if rows else 0

    def __str__(self) -> str:
        if self.count is not None:
            return str(self.count)
        assert self.share is not None
        percent = f"{float(self.share * 100):.15g}"
        return f"{percent}%" if Fraction(percent) == self.share * 100 else str(self.share)


def _share(text: str) -> Fraction:
    found = _SHARE.fullmatch(text.removeprefix("-"))
    if found is None:
        raise ValueError("must be a share such as 50% or a count such as 500")
    if not found[2] and "/" not in text and Fraction(found[1]) == 1:
        raise ValueError(f"{text} may be all rows or one row: write 100% or 1")
    return Fraction(found[1]) / (100 if found[2] else 1) * (-1 if text.startswith("-") else 1)


Quantity = Annotated[Amount, BeforeValidator(Amount.parse), PlainSerializer(lambda amount: amount.count or str(amount))]
# Strict: a quoted number or `true` is not what a number was meant to be.
Bound = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Seed = Annotated[int, Strict(), Field(ge=0, lt=2**63)]
Groups = Annotated[tuple[Group, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]


class Step(Settings):
    """One step of a recipe. Steps run top to bottom, on the rows that the earlier ones left."""

    word: ClassVar[str]

    def fields(self) -> Sequence[str]:
        """The `filter.output` fields that the step reads."""
        return ()

    def implies(self) -> Mapping[str, Mapping[str, Any]]:
        """Filters that the step needs and that a recipe need not list, with their parameters."""
        return {}

    @property
    def measures(self) -> bool:
        """Whether rows have a distance to the step's cut."""
        return False


class Deduplicate(Step):
    """Keep the first of rows that are equal (`exact`: to the character, no Unicode normalisation) or `near` to each other."""

    word = "deduplicate"
    method: Literal["exact", "near"]

    def fields(self) -> Sequence[str]:
        """The group of near-duplicates."""
        return ("near_duplicate.group",) if self.method == "near" else ()

    def implies(self) -> Mapping[str, Mapping[str, Any]]:
        """`near_duplicate`, unless the recipe lists it with parameters of its own."""
        return {"near_duplicate": {}} if self.method == "near" else {}

    def __str__(self) -> str:
        return f"deduplicate {self.method}"


class Drop(Step):
    """Drop a row whose value equals `is`, or lies above or below a bound; a missing bound is open."""

    word = "drop"
    field: str
    is_: bool | str | None = Field(default=None, alias="is")
    above: Bound | None = None
    below: Bound | None = None

    @model_validator(mode="after")
    def _says_what(self) -> Self:
        bounds = self.above is not None or self.below is not None
        if bounds == (self.is_ is not None):
            raise ValueError(f"drop on {self.field!r} needs either `is` or a bound (`above`, `below`)")
        if self.above is not None and self.below is not None and self.above <= self.below:
            raise ValueError(f"drop on {self.field!r} above {self.above} and below {self.below} would leave nothing")
        return self

    def fields(self) -> Sequence[str]:
        """The one field."""
        return (self.field,)

    @property
    def measures(self) -> bool:
        """By its bounds."""
        return self.is_ is None

    def __str__(self) -> str:
        if self.is_ is not None:
            return f"drop {self.field} is {str(self.is_).lower() if isinstance(self.is_, bool) else self.is_}"
        # Every digit: two steps whose bounds differ in the seventh are two steps.
        bounds = {"above": self.above, "below": self.below}
        said = [f"{word} {repr(value).removesuffix('.0')}" for word, value in bounds.items() if value is not None]
        return f"drop {self.field} {' or '.join(said)}"


class Decontaminate(Step):
    """Drop rows that hold more than a share `above` of the n-grams of some evaluation item."""

    word = "decontaminate"
    against: Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
    above: Bound = Field(default=0.5, ge=0.0, lt=1.0)
    n: Annotated[int, Strict(), Field(ge=1, le=50)] = 8
    column: str | None = None

    @model_validator(mode="after")
    def _against_something(self) -> Self:
        if not self.against:
            raise ValueError("`against` must name at least one evaluation file")
        return self

    def fields(self) -> Sequence[str]:
        """The overlap."""
        return ("contamination.overlap",)

    def implies(self) -> Mapping[str, Mapping[str, Any]]:
        """`contamination` against these files."""
        chosen = {"against": list(self.against), "n": self.n}
        return {"contamination": chosen | ({} if self.column is None else {"column": self.column})}

    @property
    def measures(self) -> bool:
        """By the bound."""
        return True

    def __str__(self) -> str:
        return f"decontaminate against {', '.join(self.against)} above {repr(self.above).removesuffix('.0')} (n {self.n})"


class Ranking(Step):
    """Base of the steps that rank rows by a field inside groups."""

    field: str
    lowest: Quantity | None = None
    highest: Quantity | None = None
    within: Groups = ("dataset",)

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if (self.lowest is None) == (self.highest is None):
            raise ValueError(f"{self.word} on {self.field!r} needs exactly one of `lowest` and `highest`")
        if not self.within or len(set(self.within)) < len(self.within):
            raise ValueError("`within` must name each group once")
        return self

    @property
    def amount(self) -> Amount:
        """How many rows of each group."""
        amount = self.lowest or self.highest
        assert amount is not None
        return amount

    def fields(self) -> Sequence[str]:
        """The one field."""
        return (self.field,)

    @property
    def measures(self) -> bool:
        """By the rows on either side of the cut."""
        return True

    def __str__(self) -> str:
        end = "lowest" if self.lowest else "highest"
        return f"{self.word} {self.field} {end} {self.amount} within {', '.join(self.within)}"


class Keep(Ranking):
    """Keep a share or count of each group. A row is ranked in the first group of `within` that holds two rows or more."""

    word = "keep"


class BestOf(Ranking):
    """Keep the best responses to each prompt; a prompt with a single response keeps it."""

    word = "best_of"
    within: Groups = ("prompt",)


class Sample(Step):
    """Keep a random share or count of each group. The draw of a row depends on `seed` and its place, on nothing else."""

    word = "sample"
    keep: Quantity
    seed: Seed = 0
    within: Groups = ("dataset",)

    def __str__(self) -> str:
        return f"sample {self.keep} within {', '.join(self.within)} (seed {self.seed})"


OTHERS = "*"
"""In the shares of a mixture: all sources that are not named, together."""


class Mix(Step):
    """Keep rows so that each source has its share. Rows of sources without a share are dropped.

    Where a source runs short: `shrink` (the default) cuts the whole mixture down until the shares hold, `refill` lets the others
    fill up, in proportion to their shares, and `error` ends the run. Inside a source the rows with the lowest or highest `field`
    are kept, else a random draw.
    """

    word = "mix"
    shares: dict[str, Quantity] | Literal["equal"]
    short: Literal["shrink", "refill", "error"] = "shrink"
    total: Quantity | None = None
    field: str | None = None
    first: Literal["lowest", "highest"] = "lowest"
    seed: Seed = 0

    @field_validator("shares")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        # The order decides ties, and files that hold a recipe sort their keys.
        return dict(sorted(value.items())) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _shares_make_a_whole(self) -> Self:
        if self.short != "shrink" and self.total is None:
            raise ValueError(f"`short: {self.short}` needs a `total`, a share or count of rows that the mixture should have")
        if self.shares == "equal":
            return self
        if counted := [name for name, amount in self.shares.items() if amount.share is None]:
            raise ValueError(f"the share of {counted[0]!r} must be a share such as 50%, not a count; `total` takes a count")
        whole = sum((amount.share for amount in self.shares.values() if amount.share is not None), Fraction(0))
        if whole != 1:
            raise ValueError(f"the shares add up to {float(whole):.4%}, not 100%")
        return self

    def fields(self) -> Sequence[str]:
        """The field that rows are chosen by, if any."""
        return () if self.field is None else (self.field,)

    def __str__(self) -> str:
        parts = "equal" if self.shares == "equal" else ", ".join(f"{name} {amount}" for name, amount in self.shares.items())
        total = "" if self.total is None else f" of {self.total} rows"
        by = f"by {self.field}, {self.first} first" if self.field else f"seed {self.seed}"
        return f"mix {parts}{total} ({by}; short: {self.short})"


class Order(Step):
    """Write the kept rows in the order of a field, or shuffled by a seed; without this step, in input order."""

    word = "order"
    field: str | None = None
    first: Literal["lowest", "highest"] = "lowest"
    random: Seed | None = None

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if (self.field is None) == (self.random is None):
            raise ValueError("order needs exactly one of `field` and `random` (a seed)")
        return self

    def fields(self) -> Sequence[str]:
        """The field, unless the order is random."""
        return () if self.field is None else (self.field,)

    def __str__(self) -> str:
        return f"order by {self.field}, {self.first} first" if self.field else f"order random (seed {self.random})"


STEPS: dict[str, type[Step]] = {step.word: step for step in (Deduplicate, Drop, Decontaminate, Keep, BestOf, Sample, Mix, Order)}


def _step(value: Any) -> Any:
    """`{keep: {...}}` becomes Keep(...)."""
    if isinstance(value, Step):
        return value
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError(f"a step is one word with its settings, such as `drop: {{...}}`; the words are {', '.join(STEPS)}")
    ((word, settings),) = value.items()
    if word not in STEPS:
        raise ValueError(f"unknown step {word!r}; {near_miss(str(word), STEPS)}")
    if word == Deduplicate.word and not isinstance(settings, dict):
        settings = {"method": settings}
    if word == Mix.word and settings == "equal":
        settings = {"shares": "equal"}
    if not isinstance(settings, dict):
        raise ValueError(f"{word} needs settings, such as `{word}: {{field: ...}}`")  # noqa: TRY004
    try:
        return STEPS[word](**settings)
    except ValidationError as error:
        keys = [field.alias or name for name, field in STEPS[word].model_fields.items()]
        raise ValueError(f"{word}: {first_complaint(error, keys)}") from error


class Recipe(Settings):
    """A named way to choose rows: filters that score, steps that decide, what happens to unscored rows, which trial."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)
    summary: str = ""
    source: str | None = None
    evidence: str = ""
    """What speaks for it: measured by whom, on what."""
    avoid: str = ""
    """When not to use it."""
    filters: dict[str, dict[str, Any]] = {}
    steps: tuple[Annotated[Step, BeforeValidator(_step)], ...]
    unscored: Policy = "error"
    trial: TrialSettings = TrialSettings()

    @field_validator("filters", mode="before")
    @classmethod
    def _empty_parameters(cls, value: Any) -> Any:
        return {name: given or {} for name, given in value.items()} if isinstance(value, dict) else value

    @field_validator("steps")
    @classmethod
    def _some_steps(cls, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        if not steps:
            raise ValueError("a recipe without steps would keep everything; name at least one")
        if any(isinstance(step, Order) for step in steps[:-1]):
            raise ValueError("`order` must be the last step")
        return steps

    @model_validator(mode="after")
    def _fields_exist(self) -> Self:
        known = known_filters()
        for name in self.filters:
            if name not in known:
                raise ValueError(f"unknown filter {name!r}; {near_miss(name, known, listing='installed')}")
        if Decontaminate.word in {step.word for step in self.steps} and "contamination" in self.filters:
            raise ValueError("`decontaminate` scores `contamination` by its own settings; list no filter of that name beside it")
        against = [step.implies() for step in self.steps if isinstance(step, Decontaminate)]
        if any(one != against[0] for one in against):
            raise ValueError("two `decontaminate` steps differ in files, n or column; name all files in one")
        for number, step in enumerate(self.steps, 1):
            for field in step.fields():
                self._check(field, step, known, where=f"step {number}: {step.word}")
        return self

    def _check(self, field: str, step: Step, known: Mapping[str, type[Filter]], *, where: str) -> None:
        name, _, output = field.partition(".")
        if name not in self.all_filters:
            raise ValueError(
                f"{where} reads {field!r}, but the recipe lists no filter {name!r}; "
                f"{near_miss(name, self.filters, listing='it lists')}"
            )
        outputs = known[name].outputs
        if output not in outputs:
            raise ValueError(f"{where} reads {field!r}; {near_miss(output, outputs, listing=f'{name} gives')}")
        kind = outputs[output]
        if kind.endswith(LIST):
            single = [name for name, other in outputs.items() if not other.endswith(LIST)]
            raise ValueError(
                f"{where} reads {field!r}, which is a list ({kind}); a step decides by one value per row, "
                f"{name} gives {', '.join(single)}"
            )
        if isinstance(step, Drop) and step.is_ is not None:
            wanted = {"bool": bool, "string": str}.get(kind)
            if wanted is None or not isinstance(step.is_, wanted):
                raise ValueError(f"{where} {field!r} is {step.is_!r}: the output is {kind}")
        elif kind not in ("float64", "int64"):
            raise ValueError(f"{where} needs a number, {field!r} is {kind}")

    @property
    def all_filters(self) -> dict[str, dict[str, Any]]:
        """The filters listed, and those that steps need without a word."""
        implied = {name: dict(given) for step in self.steps for name, given in step.implies().items()}
        return {**implied, **self.filters}

    @property
    def needs_model(self) -> bool:
        """Whether a filter asks the model of the run."""
        return any(given.get("model") == TARGET for given in self.filters.values())

    def build_filters(self, model: Mapping[str, Any] | None = None) -> dict[str, Filter]:
        """The filters by name. `model` holds what stands in for `target`: its location and how to run it.

        Raises UsageError when a filter needs a model and none is given.
        """
        built = {}
        for name, given in self.all_filters.items():
            parameters = dict(given)
            if parameters.get("model") == TARGET:
                if model is None:
                    raise UsageError(f"recipe {self.name!r} asks the model that you want to train: pass --model FOLDER_OR_HUB_ID")
                # What the recipe says of the view wins over the run's defaults.
                parameters = {**model, **{key: value for key, value in parameters.items() if key != "model"}}
            built[name] = build_filter(name, parameters, where=f"{self.name}: filters")
        return built

    def check_filters(self, where: str) -> None:
        """Raise RecipeError if a filter's parameters are wrong; needs no model."""
        for name, given in self.all_filters.items():
            build_filter(name, given, where=f"{where}: filters")

    def as_data(self) -> dict[str, Any]:
        """The recipe as plain data, with every default written out."""
        data = self.model_dump(mode="json", exclude={"steps"})
        data["steps"] = [{step.word: step.model_dump(mode="json", by_alias=True, exclude_none=True)} for step in self.steps]
        return data


__all__ = [
    "STEPS",
    "Amount",
    "BestOf",
    "Decontaminate",
    "Deduplicate",
    "Drop",
    "Keep",
    "Mix",
    "Order",
    "Recipe",
    "RecipeError",
    "Sample",
    "Step",
]
