"""Write the packaged sample: questions answered by four sources, with planted and labelled defects.

    python scripts/make_sample.py

The same bytes every time: everything follows from the seed, and nothing is read.
"""

import argparse
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tasks import ARITHMETIC, Question, Split, questions, reference_style

PROJECT = Path(__file__).resolve().parent.parent
SEED = 20

# Chosen by measurement: docs/reference.md.
SAMPLE_FAMILIES = ("parity", "larger", "smaller", "last_digit", "first_letter", "last_item", "after")
PROMPTS: dict[Split, int] = {"train": 52, "validation": 14, "test": 32}
"""Prompts per family."""

DEFECT_RATES: dict[str, dict[str, float]] = {
    "human-terse": {"wrong": 0.03},
    "llm-verbose": {"wrong": 0.04, "meta_talk": 0.12, "cut_off": 0.03, "loop": 0.01},
    "reference-style": {"wrong": 0.03},
    "careless": {"wrong": 0.55, "cut_off": 0.08, "loop": 0.06, "near_copy": 0.08, "meta_talk": 0.04},
}
"""How often each source carries each planted defect; the rest of its rows are clean."""

META = (
    "As an AI language model, I will answer in my own words.",
    "Sure! Here is the rewritten solution:",
    "The prediction explains the solution as follows.",
)


def _terse(fact: str, answer: str, rng: random.Random) -> str:
    opening = rng.choice(("", "", f"{answer}.\n", f"It's {answer}.\n", "Easy.\n"))
    return f"{opening}Answer: {answer}"


def _verbose(fact: str, answer: str, rng: random.Random) -> str:
    opening = rng.choice(("Let's work through this step by step.", "Let us think about this carefully."))
    return f"{opening}\nStep 1: {fact}\nTherefore, the answer is {answer}.\nFinal Answer: {answer}"


def _reference(fact: str, answer: str, rng: random.Random) -> str:
    return f"{fact}\nAnswer: {answer}"


def _careless(fact: str, answer: str, rng: random.Random) -> str:
    # Close to the reference style on purpose: were wrong rows told by their first word, a model would learn that word instead.
    opening = rng.choice(("", "", "", "ok so ", "hmm "))
    ending = rng.choice(("", "", " i guess"))
    return f"{opening}{fact[0].lower()}{fact[1:-1]}{ending}\nAnswer: {answer}"


STYLES: dict[str, Callable[[str, str, random.Random], str]] = {
    "human-terse": _terse,
    "llm-verbose": _verbose,
    "reference-style": _reference,
    "careless": _careless,
}


def _near_copy(question: Question, rng: random.Random) -> str:
    """The reference-style answer with one mark or filler changed."""
    text = reference_style(question)
    return rng.choice((text.replace(".\n", "\n"), text.replace(".\n", "!\n"), f"So {text}", text.replace(".\n", ". \n")))


def _loop(question: Question, rng: random.Random) -> str:
    """The reasoning over and over, and no answer."""
    times = rng.randint(3, 5) if len(question.fact) < 25 else 3
    return " ".join([question.fact] * times)


def respond(question: Question, source: str, defect: str | None, rng: random.Random) -> tuple[str, str | None]:
    """A source's response with a planted defect, and the label it carries."""
    style = STYLES[source]
    if defect == "wrong":
        label = "wrong_arithmetic" if question.family in ARITHMETIC else "wrong_answer"
        return style(question.wrong_fact, question.wrong, rng), label
    if defect == "near_copy":
        return _near_copy(question, rng), defect
    if defect == "loop":
        return _loop(question, rng), defect
    clean = style(question.fact, question.gold, rng)
    if defect == "cut_off":
        body = clean[: clean.rindex("\n")]
        return body[: max(4, int(len(body) * rng.uniform(0.3, 0.7)))].rstrip(), defect
    if defect == "meta_talk":
        return f"{rng.choice(META)}\n{reference_style(question)}", defect
    return clean, None


def _draw_defect(rates: Mapping[str, float], rng: random.Random) -> str | None:
    point = rng.random()
    for defect, rate in rates.items():
        if point < rate:
            return defect
        point -= rate
    return None


def draw_questions(split: Split, seed: int) -> list[Question]:
    """The split's questions, equally many of each family, no question twice."""
    drawn: list[Question] = []
    for family in SAMPLE_FAMILIES:
        by_key: dict[str, Question] = {}
        for question in questions(family, split, random.Random(f"{seed}:{split}:{family}")):
            by_key.setdefault(question.key, question)
            if len(by_key) == PROMPTS[split]:
                break
        drawn += by_key.values()
    assert len({question.prompt for question in drawn}) == len(drawn)
    random.Random(f"{seed}:{split}:order").shuffle(drawn)
    return drawn


def train_rows(seed: int) -> list[dict[str, str | None]]:
    """One row per training prompt and source."""
    rows: list[dict[str, str | None]] = []
    rng = random.Random(f"{seed}:responses")
    for number, question in enumerate(draw_questions("train", seed)):
        for source, rates in DEFECT_RATES.items():
            response, defect = respond(question, source, _draw_defect(rates, rng), rng)
            rows.append(
                {
                    "id": f"train-{number:03d}-{source}",
                    "prompt": question.prompt,
                    "response": response,
                    "source": source,
                    "gold": question.gold,
                    "task": question.family,
                    "defect": defect,
                }
            )
    return rows


def evaluation_rows(split: Split, seed: int) -> list[dict[str, str | None]]:
    """Prompts with their gold answer and the reference-style completion."""
    return [
        {
            "id": f"{split}-{number:03d}",
            "prompt": question.prompt,
            "gold": question.gold,
            "task": question.family,
            "reference": reference_style(question),
        }
        for number, question in enumerate(draw_questions(split, seed))
    ]


def sample_files(seed: int = SEED) -> dict[str, bytes]:
    """File name and content of every split."""
    splits: dict[str, Sequence[dict[str, str | None]]] = {
        "train": train_rows(seed),
        "validation": evaluation_rows("validation", seed),
        "test": evaluation_rows("test", seed),
    }
    return {f"{name}.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode() for name, rows in splits.items()}


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PROJECT / "curate" / "reference" / "sample")
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, content in sample_files(arguments.seed).items():
        (arguments.out / name).write_bytes(content)


if __name__ == "__main__":
    main()
