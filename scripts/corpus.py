"""Text for the reference model: the open-licence files of `../shared/data/text`, generated questions, and spelling lines."""

import gzip
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tasks import FAMILIES, WORDS, questions, reference_style

SEGMENT_CHARS = 4000
EOT = "<|endoftext|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Families that pre-training shows often; the others come at a fifth of their rate, so that something is left to teach.
FREQUENT = ("smaller", "first_digit", "first_item", "add", "subtract", "story", "before", "count")
RARE_RATE = 0.2


def render_chat(prompt: str, response: str) -> str:
    """One exchange as the chat template renders it."""
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n{response}<|im_end|>\n"


def is_held_out(name: str) -> bool:
    """Whether a document (book, page, prompt) is kept for the report: about one in thirty, by a stable hash of its name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % 30 == 0


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a gzipped JSONL file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def segments(text: str) -> list[str]:
    """A long text cut at paragraph borders into pieces of about `SEGMENT_CHARS`."""
    pieces: list[str] = []
    current = ""
    for paragraph in text.split("\n\n"):
        if current and len(current) + len(paragraph) > SEGMENT_CHARS:
            pieces.append(current)
            current = ""
        current += paragraph + "\n\n"
    return [*pieces, current]


def documents(shared: Path, kind: str, *, held_out: bool) -> list[str]:
    """The training (or held-out) documents of one kind, chat rows rendered, in file order."""
    found = []
    for row in read_rows(shared / "data" / "text" / f"{kind}.jsonl.gz"):
        if kind == "instruct":
            if is_held_out(row["prompt"]) == held_out:
                found.append(render_chat(row["prompt"], row["response"]))
        elif is_held_out(row["source"]) == held_out:
            found += [piece + EOT for piece in segments(row["text"])]
    return found


def task_documents(count: int, rng: random.Random) -> list[str]:
    """Chat rows of generated questions, in the reference style, all from the `pretrain` split."""
    streams = {family: questions(family, "pretrain", rng) for family in FAMILIES}
    weights = [1.0 if family in FREQUENT else RARE_RATE for family in FAMILIES]
    drawn = (next(streams[family]) for family in rng.choices(list(FAMILIES), weights, k=count))
    return [render_chat(question.prompt, reference_style(question)) for question in drawn]


def spelling_documents(prose: list[str], count: int, rng: random.Random) -> list[str]:
    """Lines that spell words letter by letter: knowledge of letters that stands in no question."""
    counts = Counter(word for text in prose[:1500] for word in re.findall(r"[a-z]{4,8}", text))
    words = [word for word, _ in counts.most_common(1500)] + list(WORDS) * 3
    lines = []
    for _ in range(count):
        word = rng.choice(words)
        lines.append(f"{word}: {' '.join(word)}\n")
    return ["".join(lines[start : start + 20]) + EOT for start in range(0, count, 20)]


def copy_documents(prose: list[str], count: int, rng: random.Random) -> list[str]:
    """Snippets and random lists said two or three times, so that copying from the context is learned early."""
    made = []
    for _ in range(count):
        if rng.random() < 0.5:
            text = rng.choice(prose)
            start = rng.randrange(max(1, len(text) - 200))
            snippet = " ".join(text[start : start + rng.randint(20, 150)].split()[1:-1])
        else:
            snippet = " ".join(rng.choice((rng.choice(WORDS), str(rng.randrange(10000)))) for _ in range(rng.randint(3, 12)))
        made.append(f"{snippet}\n" * rng.randint(2, 3) + EOT)
    return made
