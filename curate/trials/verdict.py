"""A word and a sentence for what a trial found, stated so that nobody reads more into it than the interval says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from curate.trials.statistics import Contrast, holm

Word = Literal["helped", "hurt", "no worse", "cannot tell", "not trained enough to judge"]
FEW_SEEDS = 3
TRIED = {"single": "the filter", "progressive": "the recipe's order", "mix": "the larger share of synthetic rows"}
"""What helps or hurts, by protocol."""


@dataclass(frozen=True)
class Verdict:
    """`sentence` goes on the data card; `reasons` are what limits it."""

    word: Word
    sentence: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Adjusted:
    """A secondary contrast's word, and its p value adjusted for their number."""

    word: Word
    p_value: float


def judge(
    primary: Contrast,
    *,
    treated: str,
    control: str,
    task: str,
    margin: float,
    trained: Contrast | None,
    treated_trained: Contrast | None = None,
    tried: str = TRIED["single"],
) -> Verdict:
    """The verdict on treated less control, on the task stated beforehand.

    `margin`, in score units, is the loss below which treated still counts as no worse. `trained` is control less the untrained
    model; None when that was not run. It is asked only where the primary interval holds zero: two arms that differ show by that
    that training did something, and two arms that do not may both have learnt nothing. `tried` is in words what treated
    has and control has not.

    Raises:
        ValueError: a negative margin.
    """
    if margin < 0:
        raise ValueError(f"margin is {margin}; it is a loss that is accepted, 0 or more")
    word = _word(primary, margin, trained)
    claim = _finding(primary, treated, control, task) + _conclusion(word, control, margin, tried)
    if word in ("helped", "hurt"):
        claim += _caveat(primary, trained, treated_trained)
    return Verdict(word, f"{claim}.", _reasons(primary, word, control, trained))


def _word(primary: Contrast, margin: float, trained: Contrast | None) -> Word:
    if primary.excludes_zero:
        return "helped" if primary.low > 0 else "hurt"
    if trained is not None and not trained.excludes_zero:
        return "not trained enough to judge"
    return "no worse" if primary.low > -margin else "cannot tell"


def _finding(contrast: Contrast, treated: str, control: str, task: str) -> str:
    size, amount = contrast.difference, f"{_points(abs(contrast.difference))} points"
    relation = "the same as" if size == 0 else f"{amount} {'higher' if size > 0 else 'lower'} than"
    first, second = contrast.seeds
    seeds = (
        f"{first} seeds" if first == second else f"{first} and {second} seeds" if second > 1 else f"{first} seeds against one run"
    )
    return (
        f"`{treated}` scored {relation} `{control}` on {task} ({100 * contrast.level:g} % interval {_points(contrast.low)} to "
        f"{_points(contrast.high)}; {seeds}, {contrast.items:,} items)"
    )


def _conclusion(word: Word, control: str, margin: float, tried: str) -> str:
    return {
        "helped": f": {tried} helped",
        "hurt": f": {tried} hurt",
        "no worse": f": no worse, by the stated margin of {_points(margin)} points",
        "cannot tell": ": this trial cannot tell",
        "not trained enough to judge": (
            f", and `{control}` cannot be told from the untrained model, so this says nothing about {tried}"
        ),
    }[word]


def _caveat(primary: Contrast, trained: Contrast | None, treated_trained: Contrast | None) -> str:
    """What weakens a claim so much that it must not stand without it."""
    found = []
    if not any(one is None or one.excludes_zero for one in (trained, treated_trained)):
        found.append("neither arm can be told from the untrained model")
    if min(primary.seeds) < FEW_SEEDS:
        found.append(f"with fewer than {FEW_SEEDS} seeds their spread is hardly known")
    return f"; but {' and '.join(found)}" if found else ""


def _reasons(primary: Contrast, word: Word, control: str, trained: Contrast | None) -> tuple[str, ...]:
    found = []
    if min(primary.seeds) < FEW_SEEDS:
        found.append(f"fewer than {FEW_SEEDS} seeds: their spread is hardly known")
    if trained is None and not primary.excludes_zero:
        found.append("the untrained model was not run: whether training changed anything is not known")
    if trained is not None and trained.high < 0:
        found.append(
            f"training lowered the score: `{control}` is below the untrained model by {_points(-trained.difference)} points"
        )
    if trained is not None and not trained.excludes_zero and primary.excludes_zero:
        found.append(f"`{control}` cannot be told from the untrained model")
    if word == "no worse" and primary.difference < 0:
        found.append("the difference itself is a loss, within the margin")
    return tuple(found)


def _points(score: float) -> str:
    """Score units as points, with a second decimal where the first would hide on which side of zero they are."""
    points = 100 * score
    return f"{points:z.2f}" if 0 < abs(points) < 0.05 else f"{points:z.1f}"


def combine(strict: Verdict, lenient: Verdict) -> Verdict:
    """The verdict under both ways to read answers: the strict one where their words agree, else that the trial cannot tell."""
    reasons = tuple(dict.fromkeys(strict.reasons + lenient.reasons))
    if strict.word == lenient.word:
        return Verdict(strict.word, strict.sentence, reasons)
    sentence = f"Read strictly, {strict.sentence} Read leniently, {lenient.sentence} The two differ: this trial cannot tell."
    return Verdict("cannot tell", sentence, (f"format effect: strict says {strict.word}, lenient says {lenient.word}", *reasons))


def judge_others(contrasts: Mapping[str, Contrast]) -> dict[str, Adjusted]:
    """Words for the contrasts that were not the primary one, under the same names, with p values adjusted after Holm.

    `helped` or `hurt` only where the adjusted p lies below 1 - level, whatever the contrast's own interval says: that one is
    not adjusted. Else `cannot tell`.
    """
    adjusted = holm([contrast.p_value for contrast in contrasts.values()])
    return {
        name: Adjusted(_other_word(contrast, p_value), p_value)
        for (name, contrast), p_value in zip(contrasts.items(), adjusted, strict=True)
    }


def _other_word(contrast: Contrast, p_value: float) -> Word:
    if p_value >= 1 - contrast.level:
        return "cannot tell"
    return "helped" if contrast.difference > 0 else "hurt"
