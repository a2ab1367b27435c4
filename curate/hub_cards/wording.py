"""Words and small figures of a card that need no run: what a step, a score, an arm is called for people who know none of them."""

import inspect
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from curate.filters import known_filters
from curate.hub_cards import inert
from curate.hub_cards.inert import Inert, code, number, prose, share
from curate.hub_cards.ledger import Bin

GROUPS = {
    "prompt": "other answers to the same prompt",
    "stratum": "rows of the same source and of like length",
    "source": "rows of the same source",
    "dataset": "all rows",
}
_RANKED = {
    "prompt": "answers to one prompt",
    "stratum": "rows of one source and like length",
    "source": "rows of one source",
    "dataset": "all rows",
}
_PATH = re.compile(r"(?<![\w:/.<])(?:~?/|[A-Za-z]:\\)(?:[^\s/\\'\"`;,()]+[/\\])+([^\s/\\'\"`;,()]+)[/\\]?")
_ORDER = ("name", "summary", "source", "evidence", "avoid", "filters", "steps", "unscored", "trial")
SETTINGS = {
    "chat_template": "chat template: {}",
    "dtype": "in {}",
    "few_shot": "behind examples of the hash {}",
    "max_length": "at most {} tokens a row",
    "quantize": "weights in {}",
    "normalise": "after stripping {}",
}
NO_ERRORS = ("errors.contains_gold", "errors.strict_wrong")
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
SAID_ELSEWHERE = ("uncalibrated here", "length and source alone explain", "had another response to the same prompt")


def without_paths(text: str) -> str:
    """Text in which a path of somebody's machine is only its last name."""
    return _PATH.sub(lambda found: found[1], text)


def scrubbed(value: Any) -> Any:
    """A recipe's data without the paths in its texts."""
    if isinstance(value, Mapping):
        return {key: scrubbed(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [scrubbed(inner) for inner in value]
    return without_paths(value) if isinstance(value, str) else value


def setting(value: Any) -> Inert:
    """A setting that scores depend on."""
    if isinstance(value, int):
        return number(value)
    return (
        prose(value) if value == "the tokenizer's own" else code(value if isinstance(value, str) else ", ".join(map(str, value)))
    )


def is_packaged(identity: Any) -> bool:
    """Whether this is the model that the wheel holds."""
    if not isinstance(identity, Mapping) or "weights" not in identity:
        return False
    from curate.likelihood import model_identity
    from curate.reference import model_path

    return bool(model_identity(str(model_path()), None) == dict(identity))


def models_asked(fingerprint: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The parts of a fingerprint that name a model, and under which key."""
    yield from ((fingerprint, role) for role in ("model", "observer") if fingerprint.get(role))
    for inner in (fingerprint.get("depends") or {}).values():
        yield from models_asked(inner)


def minimal(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
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


def fields_of(step: Mapping[str, Any]) -> Iterator[str]:
    """The scores that a step reads, from its data: the filter may not be installed here."""
    for word, settings in step.items():
        if isinstance(settings, Mapping) and isinstance(settings.get("field"), str):
            yield settings["field"]
        if word == "deduplicate" and isinstance(settings, Mapping) and settings.get("method") == "near":
            yield "near_duplicate.group"
        if word == "decontaminate":
            yield "contamination.overlap"


def in_words(step: Mapping[str, Any]) -> Inert:
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
        within = given.get("within") or [{"keep": "dataset", "best_of": "prompt"}[word]]
        among = "; else ".join(_RANKED.get(str(group)) or code(group) for group in within)
        amount = "half" if given.get(end) in ("50%", 0.5) else code(given.get(end, ""))
        return Inert(f"of the rows compared ({among}), the {amount} with the {end} {field} stay")
    if word == "sample":
        return Inert(f"a random {code(given.get('keep', ''))} stays, whatever its scores")
    if word == "mix":
        return Inert("rows are taken so that each source has its share")
    return Inert("the rows are put into an order" if word == "order" else "–")


def _bound(value: Any) -> Inert:
    return number(float(value)) if isinstance(value, (int, float)) and not isinstance(value, bool) else code(value)


def trained_on(arm: str) -> Inert:
    """What an arm of a trial was trained on; nothing for an arm of the user's own."""
    if found := re.fullmatch(r"after:(\d{1,3})", arm):
        return Inert(f"as many rows drawn at random after step {int(found[1])}")
    if arm.startswith("source:"):
        return Inert(f"rows of {code(arm.removeprefix('source:'))}")
    return Inert(_ARMS.get(arm, ""))


def r2(value: float | None) -> Inert:
    """A share of explained variance as percent."""
    return Inert("–") if value is None else share(round(1000 * value), 1000)


def joined(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else "nothing"


def interval(bounds: Any) -> str:
    """` (88.1 % to 93 %)` for shares."""
    if not isinstance(bounds, Sequence) or len(bounds) != 2 or not all(isinstance(bound, float) for bound in bounds):
        return ""
    return f" (95 % interval {number(100 * bounds[0])} % to {number(100 * bounds[1])} %)"


def points(by_seed: Sequence[float]) -> Inert:
    """Mean over seeds as points, with their standard deviation."""
    mean = 100 * statistics.fmean(by_seed)
    return Inert(f"{mean:.1f} ± {100 * statistics.stdev(by_seed):.1f}" if len(by_seed) > 1 else f"{mean:.1f}")


def chart(bins: Sequence[Bin]) -> Inert:
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


# A call or a formula over names is one thing to read: `exp(content_nll - unconditional_nll)`.
_FORMULA = re.compile(r"\b\w+\([^()\s]*_[^()]*\)|\b\w+(?: [-+*/] \w+)*(?: [-+*/] \w*_\w+)(?: [-+*/] \w+)*|\b\w*_\w*[^\W_]\w*\b")


def meaning_of(field: str) -> Inert | None:
    """What a filter's data sheet says of an output, up to its first full stop; None where there is none."""
    name, _, output = field.partition(".")
    filter_class = known_filters().get(name)
    sheet = inspect.getdoc(filter_class) if filter_class else None
    text = _sheet_line(sheet or "", output)
    if text is None:
        return None
    if (like := re.match(r"as (\w+),", text)) and like[1] != output and (meant := _sheet_line(sheet or "", like[1])):
        text = f"{text}; {like[1]} is the {meant}"
    return prose(_whole_spans(text))


def _sheet_line(sheet: str, output: str) -> str | None:
    """The beginning of an output's entry in a data sheet."""
    found = re.search(rf"^( +){re.escape(output)}: (.+(?:\n\1 +.+)*)", sheet, re.MULTILINE)
    if found is None:
        return None
    return re.split(r"(?<=[^.].)\. |: |, in [\[(]", " ".join(found[2].split()))[0].rstrip(".")


def _whole_spans(text: str) -> str:
    """A data sheet's sentence without emphasis, and with every name or formula between back quotes of its own."""
    parts = re.sub(r"(?<!\w)\*(\w[^*`]*)\*(?!\w)", r"\1", text).split("`")
    if len(parts) % 2 == 0:  # a lone back quote marks nothing
        return text
    return "`".join(part if place % 2 else _FORMULA.sub(r"`\g<0>`", part) for place, part in enumerate(parts))
