"""Seeded questions of several families, each with a gold answer, a planted wrong one, and the splits they belong to.

A question's split is a stable hash of what it asks (family and operands), never of its wording, so that pre-training, training,
validation and test can be drawn independently and never share a question.
"""

import hashlib
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Split = Literal["pretrain", "train", "validation", "test"]

SHARES: dict[Split, int] = {"pretrain": 45, "train": 30, "validation": 10, "test": 15}
"""Percent of all questions of a family that fall into each split."""

_WORDS = """
anchor apple apron arrow autumn bacon badge baker banana basket beach beacon berry bicycle blanket blossom bottle branch
bread brick bridge bronze brush bucket butter button cabin cactus camel camera candle canoe canvas carpet carrot castle
cattle cellar cement cherry chimney circle clover cloud coffee collar copper corner cotton cradle crayon cricket crown
curtain cushion daisy dance desert diamond dinner dollar donkey dragon drawer driver drum eagle earth elbow engine evening
fabric falcon farmer feather fence ferry fiddle finger flame flower flute forest fossil fountain fridge garden garlic
ghost giant ginger glacier glass glove goblet grape gravel guitar hammer harbor harvest hazel helmet honey hotel hunter
igloo indigo insect island ivory jacket jasmine jelly jewel jigsaw journey jungle kettle kitchen kitten knife ladder lantern
lemon letter lettuce lizard locket lumber magnet mango maple marble market meadow melon mirror monkey mortar mother muffin
museum mustard napkin needle nickel notebook nutmeg ocean olive onion orange orchard oyster paddle palace panther paper
parrot pasture pebble pencil pepper piano pickle pigeon pillow planet pocket pond potato powder pumpkin puppet puzzle quarry
quilt rabbit radish raven ribbon river robin rocket rope saddle salmon sandal school season shadow shelter shovel signal
silver sister sketch sparrow spider spinach sponge spoon squash stable statue stone summer sunset table tailor teapot temple
thunder ticket tiger timber tomato towel tractor trumpet tulip tunnel turkey turtle tuxedo umbrella uncle valley vanilla
velvet village violin volcano wagon walnut water wheat whistle window winter wizard wolf yard yellow yogurt zebra zipper
"""
WORDS = tuple(_WORDS.split())
NAMES = (
    "Tom",
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Ella",
    "Frank",
    "Grace",
    "Henry",
    "Iris",
    "Jack",
    "Lena",
    "Mark",
    "Nora",
    "Paul",
    "Rosa",
)
THINGS = ("apples", "books", "coins", "stamps", "marbles", "cards", "shells", "pens", "eggs", "nuts")


@dataclass(frozen=True)
class Question:
    """One question of a family. `fact` is the sentence that leads to `gold`, `wrong_fact` the one that leads to `wrong`."""

    family: str
    key: str
    """What is asked, whatever the wording: equal keys are the same question."""
    prompt: str
    gold: str
    wrong: str
    fact: str
    wrong_fact: str

    @property
    def split(self) -> Split:
        """The split that the key's hash falls into."""
        point = int.from_bytes(hashlib.sha256(f"{self.family}:{self.key}".encode()).digest()[:4], "big") % 100
        for split, share in SHARES.items():
            if point < share:
                return split
            point -= share
        raise AssertionError("shares do not add up to 100")


def _ask(rng: random.Random, *wordings: str) -> str:
    return rng.choice(wordings)


def _number(rng: random.Random, digits: tuple[int, int]) -> int:
    length = rng.randint(*digits)
    return rng.randrange(10 ** (length - 1), 10**length)


def _parity(rng: random.Random) -> Question:
    n = _number(rng, (2, 4))
    gold, wrong = ("odd", "even") if n % 2 else ("even", "odd")
    prompt = _ask(rng, f"Is {n} odd or even?", f"Is the number {n} even or odd?", f"Odd or even: {n}?")
    return Question(
        "parity",
        str(n),
        prompt,
        gold,
        wrong,
        f"{n} ends in {n % 10}, which is {gold}.",
        f"{n} ends in {n % 10}, which is {wrong}.",
    )


def _compare(rng: random.Random, family: str) -> Question:
    digits = (rng.randint(2, 3),) * 2
    a, b = _number(rng, digits), _number(rng, digits)
    if a == b:
        b = a + 1 if a % 10 < 9 else a - 1
    more = family == "larger"
    gold, wrong = (max(a, b), min(a, b)) if more else (min(a, b), max(a, b))
    prompt = _ask(
        rng, f"Which number is {family}, {a} or {b}?", f"Which is {family}: {a} or {b}?", f"Give the {family} of {a} and {b}."
    )
    key = f"{min(a, b)},{max(a, b)}"
    sign = "more" if more else "less"
    return Question(
        family, key, prompt, str(gold), str(wrong), f"{gold} is {sign} than {wrong}.", f"{wrong} is {sign} than {gold}."
    )


def _larger(rng: random.Random) -> Question:
    return _compare(rng, "larger")


def _smaller(rng: random.Random) -> Question:
    return _compare(rng, "smaller")


def _digit(rng: random.Random, family: str) -> Question:
    end, other = (-1, 0) if family == "last_digit" else (0, -1)
    n = str(_number(rng, (3, 5)))
    while n[0] == n[-1]:
        n = str(_number(rng, (3, 5)))
    name = "last" if end else "first"
    verb = "ends in" if end else "begins with"
    prompt = _ask(rng, f"What is the {name} digit of {n}?", f"Give the {name} digit of {n}.", f"Which digit comes {name} in {n}?")
    return Question(family, n, prompt, n[end], n[other], f"{n} {verb} {n[end]}.", f"{n} {verb} {n[other]}.")


def _last_digit(rng: random.Random) -> Question:
    return _digit(rng, "last_digit")


def _first_digit(rng: random.Random) -> Question:
    return _digit(rng, "first_digit")


def _letter(rng: random.Random, family: str) -> Question:
    end, other = (0, -1) if family == "first_letter" else (-1, 0)
    word = rng.choice(WORDS)
    while word[0] == word[-1]:
        word = rng.choice(WORDS)
    name = "last" if end else "first"
    verb = "ends with" if end else "begins with"
    prompt = _ask(
        rng,
        f"What is the {name} letter of the word {word}?",
        f"Give the {name} letter of {word}.",
        f"Which letter comes {name} in {word}?",
    )
    return Question(
        family,
        word,
        prompt,
        word[end],
        word[other],
        f"The word {word} {verb} {word[end]}.",
        f"The word {word} {verb} {word[other]}.",
    )


def _first_letter(rng: random.Random) -> Question:
    return _letter(rng, "first_letter")


def _last_letter(rng: random.Random) -> Question:
    return _letter(rng, "last_letter")


def _item(rng: random.Random, family: str) -> Question:
    words = rng.sample(WORDS, rng.randint(3, 5))
    end, other = (0, -1) if family == "first_item" else (-1, 0)
    name = "last" if end else "first"
    shown = ", ".join(words)
    prompt = _ask(
        rng,
        f"Which word comes {name} in this list: {shown}?",
        f"What is the {name} word of: {shown}?",
        f"List: {shown}. Give the {name} word.",
    )
    fact, wrong_fact = (f"The list {'ends' if end else 'begins'} with {words[i]}." for i in (end, other))
    return Question(family, ",".join(words), prompt, words[end], words[other], fact, wrong_fact)


def _first_item(rng: random.Random) -> Question:
    return _item(rng, "first_item")


def _last_item(rng: random.Random) -> Question:
    return _item(rng, "last_item")


def _slip(rng: random.Random, value: int) -> int:
    """A wrong result of the kind that careless people reach: off by one, two or ten."""
    return rng.choice([w for w in (value - 10, value - 2, value - 1, value + 1, value + 2, value + 10) if w > 0])


def _sum(rng: random.Random, family: str) -> Question:
    if family == "add":
        a, b = rng.randint(1, 49), rng.randint(1, 9)
        gold, sign, key = a + b, "+", f"{min(a, b)},{max(a, b)}"
    else:
        a, b = rng.randint(11, 59), rng.randint(1, 9)
        gold, sign, key = a - b, "-", f"{a},{b}"
    wrong = _slip(rng, gold)
    prompt = _ask(rng, f"What is {a} {sign} {b}?", f"Compute {a} {sign} {b}.", f"How much is {a} {sign} {b}?")
    return Question(family, key, prompt, str(gold), str(wrong), f"{a} {sign} {b} = {gold}.", f"{a} {sign} {b} = {wrong}.")


def _add(rng: random.Random) -> Question:
    return _sum(rng, "add")


def _subtract(rng: random.Random) -> Question:
    return _sum(rng, "subtract")


def _story(rng: random.Random) -> Question:
    a, b, name, thing = rng.randint(2, 20), rng.randint(2, 9), rng.choice(NAMES), rng.choice(THINGS)
    if rng.random() < 0.5 or a <= b:
        gold, sign, event = a + b, "+", rng.choice(("gets", "buys", "finds"))
        told = f"{name} has {a} {thing} and {event} {b} more."
    else:
        gold, sign, event = a - b, "-", rng.choice(("loses", "sells", "gives away"))
        told = f"{name} has {a} {thing} and {event} {b}."
    wrong = _slip(rng, gold)
    prompt = f"{told} How many {thing} does {name} have now?"
    return Question(
        "story",
        f"{a}{sign}{b},{name},{thing}",
        prompt,
        str(gold),
        str(wrong),
        f"{a} {sign} {b} = {gold}.",
        f"{a} {sign} {b} = {wrong}.",
    )


def _neighbour(rng: random.Random, family: str) -> Question:
    step = 1 if family == "after" else -1
    n = _number(rng, (2, 3))
    prompt = _ask(
        rng, f"What number comes right {family} {n}?", f"Which number is just {family} {n}?", f"Give the number {family} {n}."
    )
    gold, wrong = n + step, n - step
    sign = "+" if step > 0 else "-"
    return Question(family, str(n), prompt, str(gold), str(wrong), f"{n} {sign} 1 = {gold}.", f"{n} {sign} 1 = {wrong}.")


def _after(rng: random.Random) -> Question:
    return _neighbour(rng, "after")


def _before(rng: random.Random) -> Question:
    return _neighbour(rng, "before")


def _reverse(rng: random.Random) -> Question:
    n = str(_number(rng, (3, 4)))
    while n == n[::-1]:
        n = str(_number(rng, (3, 4)))
    prompt = _ask(rng, f"Write {n} backwards.", f"Reverse the digits of {n}.", f"What is {n} read from right to left?")
    wrong = n[:-2] + n[-1] + n[-2] if n[-1] != n[-2] else n
    return Question("reverse", n, prompt, n[::-1], wrong, f"{n} backwards is {n[::-1]}.", f"{n} backwards is {wrong}.")


def _count(rng: random.Random) -> Question:
    words = rng.sample(WORDS, rng.randint(2, 7))
    shown, gold = ", ".join(words), len(words)
    wrong = gold + rng.choice((-1, 1))
    prompt = _ask(
        rng, f"How many words are in this list: {shown}?", f"Count the words: {shown}.", f"List: {shown}. How many words is that?"
    )
    return Question(
        "count", ",".join(words), prompt, str(gold), str(wrong), f"The list has {gold} words.", f"The list has {wrong} words."
    )


def _member(rng: random.Random) -> Question:
    words = rng.sample(WORDS, rng.randint(3, 5) + 1)
    probe, rest = words[0], words[1:]
    inside = rng.random() < 0.5
    if inside:
        probe = rng.choice(rest)
    shown = ", ".join(rest)
    gold, wrong = ("yes", "no") if inside else ("no", "yes")
    prompt = _ask(
        rng,
        f"Is {probe} in this list: {shown}?",
        f"List: {shown}. Is {probe} in it?",
        f"Does this list contain {probe}: {shown}?",
    )
    fact, wrong_fact = (f"The word {probe} is {'in' if says == 'yes' else 'not in'} the list." for says in (gold, wrong))
    return Question("member", f"{probe}:{shown}", prompt, gold, wrong, fact, wrong_fact)


FAMILIES: dict[str, Callable[[random.Random], Question]] = {
    "parity": _parity,
    "larger": _larger,
    "smaller": _smaller,
    "last_digit": _last_digit,
    "first_digit": _first_digit,
    "first_letter": _first_letter,
    "last_letter": _last_letter,
    "first_item": _first_item,
    "last_item": _last_item,
    "add": _add,
    "subtract": _subtract,
    "story": _story,
    "after": _after,
    "before": _before,
    "reverse": _reverse,
    "count": _count,
    "member": _member,
}
ARITHMETIC = frozenset({"add", "subtract", "story", "after", "before"})


def questions(family: str, split: Split, rng: random.Random) -> Iterator[Question]:
    """Endless questions of one family that fall into a split; they may repeat."""
    while True:
        question = FAMILIES[family](rng)
        if question.split == split:
            yield question


def reference_style(question: Question) -> str:
    """The completion in the style that the reference model was trained on."""
    return f"{question.fact}\nAnswer: {question.gold}"


def final_answer(text: str) -> str | None:
    """What stands after the last `Answer:` on its line, else the last number of the text, else None."""
    if "Answer:" in text:
        return text.rpartition("Answer:")[2].strip().partition("\n")[0].strip(" .!")
    numbers = re.findall(r"-?\d+", text)
    return numbers[-1] if numbers else None
