"""Train the packaged reference model: tokenizer, a small Llama, chat template.

    python scripts/train_reference.py --shared ../shared --steps 3000

The result is a stand-in so that the pipeline runs without a download. It is no judge of real data.
"""

import argparse
import json
import math
import os
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAYON_NUM_THREADS", "1")

import torch
from corpus import CHAT_TEMPLATE, EOT, copy_documents, documents, spelling_documents, task_documents
from muon import Muon
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PROJECT = Path(__file__).resolve().parent.parent
KINDS = ("prose", "docs", "instruct")
MIXES = {
    1: {"prose": 0.44, "docs": 0.10, "instruct": 0.33, "tasks": 0.11, "spelling": 0.02},
    2: {"prose": 0.35, "docs": 0.08, "instruct": 0.26, "tasks": 0.20, "copies": 0.09, "spelling": 0.02},
    3: {"prose": 0.26, "docs": 0.06, "instruct": 0.24, "tasks": 0.36, "copies": 0.06, "spelling": 0.02},
}
"""Share of the training tokens, by phase. The later ones have more questions, and text that is said twice."""
VOCABULARY = 3072
WINDOWS = ((256, 0.90), (1024, 0.07), (2048, 0.03))
"""Window lengths and their share of the steps. The long ones keep positions beyond 256 from being garbage."""
WARM_UP_STEPS = 80
DECAY = {1: 0.0, 2: 0.0, 3: 1.0}
"""The last share of the steps, over which the rate falls linearly to zero, by phase."""


@dataclass(frozen=True)
class Settings:
    """What, how long and how fast to train."""

    phase: int
    steps: int
    batch_tokens: int
    learning_rate: float
    seed: int


def train_tokenizer(texts: dict[str, list[str]]) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which every digit is a token of its own."""
    budget_chars = {"prose": 4_000_000, "docs": 1_000_000, "instruct": 3_500_000, "tasks": 700_000}
    chosen = []
    for kind, chars in budget_chars.items():
        for text in texts[kind]:
            chosen.append(text.replace(EOT, "").replace("<|im_start|>", "").replace("<|im_end|>", ""))
            chars -= len(text)
            if chars < 0:
                break
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[EOT, "<|im_start|>", "<|im_end|>", "<|pad|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(chosen, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=2048,
    )


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """An untrained Llama of 2.6 million parameters."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def training_stream(
    tokenizer: PreTrainedTokenizerFast, texts: dict[str, list[str]], mix: dict[str, float], tokens: int, rng: random.Random
) -> torch.Tensor:
    """One stream of token ids that holds each kind by its share of the mix, documents in random order."""
    pieces: list[list[int]] = []
    for kind, share in mix.items():
        order = list(texts[kind])
        rng.shuffle(order)
        taken = 0
        while taken < share * tokens:  # a kind that is too small is read again
            for text in order:
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                pieces.append(ids)
                taken += len(ids)
                if taken >= share * tokens:
                    break
    rng.shuffle(pieces)
    return torch.tensor([token for piece in pieces for token in piece][:tokens])  # (tokens,)


def window_lengths(settings: Settings, rng: random.Random) -> list[int]:
    """The window length of each step."""
    return rng.choices([length for length, _ in WINDOWS], [share for _, share in WINDOWS], k=settings.steps)


def rate_factor(step: int, settings: Settings) -> float:
    """Linear warm-up, then constant or, in the last phase, linear decay to zero."""
    decay_steps = DECAY[settings.phase] * settings.steps
    falling = (settings.steps - step) / decay_steps if decay_steps else 1.0
    return min(1.0, (step + 1) / WARM_UP_STEPS, falling)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write weights as float16 under a config that says float32: half the size, and loaded in float32 by default."""
    config = model.config
    half = LlamaForCausalLM(config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(folder)
    text = json.loads((folder / "config.json").read_text())
    text["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(text, indent=2, sort_keys=True) + "\n")
    tokenizer.save_pretrained(folder)


def train(model: LlamaForCausalLM, stream: torch.Tensor, settings: Settings, on_step: Any) -> None:
    """One pass over the stream: Muon for the matrices of the layers, AdamW for embeddings and norms."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in named if p.ndim != 2 or "embed" in name]
    rate = settings.learning_rate
    muon = Muon(matrices, weight_decay=0.02)
    adam = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)

    def mean_loss(batch: torch.Tensor) -> torch.Tensor:
        logits = model(batch, use_cache=False).logits  # (B, T, V)
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())

    # Compiled for the one frequent shape, 1.65 times as fast; every other shape would cost 50 s of compiling.
    compiled = torch.compile(mean_loss, dynamic=False)
    lengths = window_lengths(settings, random.Random(settings.seed))
    model.train()
    cursor = 0
    for step, length in enumerate(lengths):
        rows = max(1, settings.batch_tokens // length)
        batch = stream[cursor : cursor + rows * length].view(rows, length)  # (B, T)
        cursor += rows * length
        loss = compiled(batch) if length == WINDOWS[0][0] else mean_loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        factor = rate_factor(step, settings)
        for group in adam.param_groups:
            group["lr"] = rate * factor
        adam.step()
        adam.zero_grad()
        muon.step(rate * factor)
        on_step(step, loss.item())


@torch.no_grad()
def held_out_bits(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str], *, max_chars: int = 60_000
) -> float:
    """Bits per character over the first held-out documents, each read from its own start, cut at 1,024 tokens."""
    model.eval()
    nats, chars = 0.0, 0
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:1024]
        batch = torch.tensor([ids])
        logits = model(batch, use_cache=False).logits[0].float()  # (T, V)
        nats += torch.nn.functional.cross_entropy(logits[:-1], batch[0, 1:], reduction="sum").item()
        chars += len(tokenizer.decode(ids[1:]))
        if chars > max_chars:
            break
    model.train()
    return nats / math.log(2) / chars


def main() -> None:
    """Read the text, train, and save a checkpoint every few hundred steps and at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=PROJECT.parent / "shared")
    parser.add_argument("--out", type=Path, default=PROJECT / "curate" / "reference" / "model")
    parser.add_argument("--phase", type=int, choices=MIXES, default=1)
    parser.add_argument("--start-from", type=Path, help="folder of the model that the phase before left")
    parser.add_argument("--steps", type=int, default=3400)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--save-every", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(arguments.phase, arguments.steps, arguments.batch_tokens, arguments.learning_rate, arguments.seed)

    rng = random.Random(f"{settings.seed}:{settings.phase}")
    mix = MIXES[settings.phase]
    texts = {kind: documents(arguments.shared, kind, held_out=False) for kind in KINDS}
    held_out = {kind: documents(arguments.shared, kind, held_out=True) for kind in KINDS}
    for kind in KINDS:
        rng.shuffle(texts[kind])
        random.Random(1).shuffle(held_out[kind])
    # Windows of 2,048 tokens may be larger than a batch: room for them.
    tokens = settings.steps * max(settings.batch_tokens, 2048)
    texts["tasks"] = task_documents(int(mix["tasks"] * tokens / 34), rng)
    texts["copies"] = copy_documents(texts["prose"], int(mix.get("copies", 0.0) * tokens / 50), rng)
    texts["spelling"] = spelling_documents(texts["prose"], 20_000, rng)
    tokenizer = AutoTokenizer.from_pretrained(arguments.start_from) if arguments.start_from else train_tokenizer(texts)
    stream = training_stream(tokenizer, texts, mix, tokens, rng)
    print(
        f"{len(stream)} tokens; {sum(map(len, texts['tasks'])) / len(texts['tasks']):.0f} characters per task row",
        file=sys.stderr,
    )
    model = new_model(tokenizer, settings.seed)
    if arguments.start_from:
        model.load_state_dict(LlamaForCausalLM.from_pretrained(arguments.start_from, dtype=torch.float32).state_dict())
    began = time.monotonic()
    recent: list[float] = []

    def on_step(step: int, loss: float) -> None:
        recent.append(loss)
        if (step + 1) % 50 == 0:
            minutes = (time.monotonic() - began) / 60
            print(f"step {step + 1} loss {sum(recent[-50:]) / 50:.3f} {minutes:.1f} min", file=sys.stderr, flush=True)
        if (step + 1) % arguments.save_every == 0 or step + 1 == settings.steps:
            save(model, tokenizer, arguments.out)
            bits = {kind: round(held_out_bits(model, tokenizer, held_out[kind]), 3) for kind in KINDS}
            print(f"step {step + 1} held-out bits per character {bits}", file=sys.stderr, flush=True)

    train(model, stream, settings, on_step)


if __name__ == "__main__":
    main()
