"""Measure bits per character of one or more models on text that the reference model has not seen.

    python scripts/measure_bits.py --shared ../shared --model curate/reference/model --model ../shared/models/stories260K

A response is scored given its prompt: in the model's chat template if it has one, else after the prompt and a newline.
"""

import argparse
import math
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from corpus import documents, is_held_out, read_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

PROJECT = Path(__file__).resolve().parent.parent
SOURCES = ("human-nocalc", "gpt4", "claude")
CONTEXT_TOKENS = 512
PIECE_CHARS = 1000

Pair = tuple[str, str]
"""A prompt (empty for plain text) and the text that is scored."""


def prose_pairs(shared: Path) -> Iterator[Pair]:
    """The beginnings of segments of held-out books, in random order."""
    texts = documents(shared, "prose", held_out=True)
    random.Random(0).shuffle(texts)
    for text in texts:
        yield "", text.removesuffix("<|endoftext|>")[:PIECE_CHARS]


def instruct_pairs(shared: Path) -> Iterator[Pair]:
    """Held-out instruction rows in random order, but for those whose response also stands in a training row."""
    rows = list(read_rows(shared / "data" / "text" / "instruct.jsonl.gz"))
    seen = {row["response"].strip() for row in rows if not is_held_out(row["prompt"])}
    held_out = [row for row in rows if is_held_out(row["prompt"]) and row["response"].strip() not in seen]
    random.Random(0).shuffle(held_out)
    for row in held_out:
        yield row["prompt"], row["response"]


def gsm8k_pairs(shared: Path, source: str) -> Iterator[Pair]:
    """Answers of one source to the unseen GSM8K problems."""
    for row in read_rows(shared / "data" / "familiarity" / "gsm8k" / "train.jsonl.gz"):
        if row["source"] == source:
            yield row["prompt"], row["response"]


def encode(tokenizer: Any, prompt: str, text: str) -> tuple[list[int], list[int]]:
    """Token ids of what comes before the scored text, and of the scored text."""
    if not prompt:
        before = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        return before, tokenizer(text, add_special_tokens=False)["input_ids"]
    if tokenizer.chat_template:
        shown = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False)
    else:
        shown = prompt.rstrip() + "\n"
    return tokenizer(shown)["input_ids"], tokenizer(text, add_special_tokens=False)["input_ids"]


@torch.no_grad()
def bits_per_character(model: Any, tokenizer: Any, pairs: Iterator[Pair], rows: int) -> float:
    """Total bits over total characters; rows beyond the context are left out, a text without prompt loses its first token."""
    nats, chars, used = 0.0, 0, 0
    for prompt, text in pairs:
        before, scored = encode(tokenizer, prompt, text)
        if len(before) + len(scored) > CONTEXT_TOKENS:
            continue
        first = max(1, len(before))
        ids = torch.tensor([before + scored])  # (1, T)
        logits = model(ids, use_cache=False).logits[0].float()  # (T, V)
        nats += torch.nn.functional.cross_entropy(logits[first - 1 : -1], ids[0, first:], reduction="sum").item()
        chars += len(text)
        used += 1
        if used == rows:
            break
    return nats / math.log(2) / chars


def main() -> None:
    """Print one table: texts in rows, models in columns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=PROJECT.parent / "shared")
    parser.add_argument("--model", type=Path, action="append", required=True)
    parser.add_argument("--rows", type=int, default=100, help="rows per text, the first ones that fit the context")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, list[float]] = {}
    for folder in options.model:
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        texts = {"prose": prose_pairs(options.shared), "instruct": instruct_pairs(options.shared)}
        texts |= {f"GSM8K {source}": gsm8k_pairs(options.shared, source) for source in SOURCES}
        for name, pairs in texts.items():
            table.setdefault(name, []).append(bits_per_character(model, tokenizer, pairs, options.rows))
    print("| text | " + " | ".join(folder.name for folder in options.model) + " |")
    print("|---|" + "---|" * len(options.model))
    for name, values in table.items():
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |")


if __name__ == "__main__":
    main()
