"""What the scoring benchmark scores: shapes with random weights, tokenizers of their size, rows, and what these must cost."""

import gzip
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Pairs = Mapping[str, Sequence[str]]
"""Prompts with their responses. No prompt ends in white space and every response begins with a line break:
lm-evaluation-harness moves white space from the prompt's end into the response, and all ways are to score the same tokens."""

EOS, PAD = "<|endoftext|>", "<|pad|>"
LONG_RESPONSES, LONG_TIMES = 8, 4
"""The long-prompt rows: responses to a prompt, and how many times longer than the mean response the prompt is."""
GEMM_WIDTH = 4_096
"""Outputs of the head that its product is timed with: all 49,152 of a pack would be 800 MB, and no faster per output."""


@dataclass(frozen=True)
class Shape:
    """A Llama."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool = True
    positions: int = 4_096

    def products(self) -> list[tuple[int, int, int]]:
        """Inputs, outputs and number of the body's matrix products."""
        head_size = self.hidden // self.heads
        return [
            (self.hidden, self.hidden, 2 * self.layers),  # queries, attention's output
            (self.hidden, self.kv_heads * head_size, 2 * self.layers),
            (self.hidden, self.intermediate, 2 * self.layers),
            (self.intermediate, self.hidden, self.layers),
        ]

    def body_flops(self) -> int:
        """Operations of these products per token read; attention's own are not counted."""
        return sum(2 * inputs * outputs * count for inputs, outputs, count in self.products())

    def head_flops(self) -> int:
        """Operations of the output layer per token scored."""
        return 2 * self.hidden * self.vocabulary


SHAPES = {
    "tiny": Shape(32, 2, 4, 2, 64, 400),
    "S": Shape(256, 6, 4, 4, 704, 4_096),
    "M": Shape(576, 30, 9, 3, 1_536, 49_152),
    "1B": Shape(2_048, 16, 32, 8, 8_192, 128_256),
    "7B": Shape(4_096, 32, 32, 32, 11_008, 32_000, tied=False),
}
"""M is SmolLM2-135M's, 1B is Llama 3.2's, 7B is Llama 2's."""


@dataclass(frozen=True)
class Counts:
    """Tokens of some rows; EOS is one of the response's."""

    prompts: int
    rows: int
    prompt_tokens: int
    """Every prompt once."""
    prompt_tokens_of_rows: int
    """Every prompt as often as it has responses."""
    response_tokens: Sequence[int]
    """Row by row."""
    read: int
    """Tokens that have to go through the body: what rows begin with alike once, and the last of a row never."""

    @property
    def scored(self) -> int:
        """Tokens that have a likelihood."""
        return sum(self.response_tokens)

    def flops(self, shape: Shape) -> int:
        """Operations of the matrix products that these rows need."""
        return self.read * shape.body_flops() + self.scored * shape.head_flops()


def read_pairs(paths: Iterable[Path]) -> dict[str, list[str]]:
    """All prompts of some JSON-lines files with their distinct responses, in the files' order."""
    found: dict[str, dict[str, None]] = {}
    for path in paths:
        open_text = gzip.open if path.suffix == ".gz" else open
        with open_text(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                if row["response"].strip():
                    found.setdefault(row["prompt"].rstrip(), {})["\n" + row["response"].strip()] = None
    return {prompt: list(responses) for prompt, responses in found.items()}


def save_model(folder: Path, shape: Shape, texts: Sequence[str], *, dtype: str = "float32") -> Any:
    """A Llama with random weights and a tokenizer trained on `texts`, as `save_pretrained` writes them; returns the latter."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocabulary,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[EOS, PAD],
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=EOS, pad_token=PAD, padding_side="right", model_max_length=shape.positions
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=shape.tied,
        # Logits of about unit variance, as SmolLM2 starts with: weaker ones make every token as likely as any other, and ways
        # that score other tokens would still agree.
        initializer_range=shape.hidden**-0.5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def count(tokenizer: Any, pairs: Pairs) -> Counts:
    """Tokens of all rows, responses closed with EOS. Asserts that no token spans the border of prompt and response."""
    once, of_rows = 0, 0
    scored: list[int] = []
    rows: list[list[int]] = []
    for prompt, responses in pairs.items():
        own = tokenizer(prompt)["input_ids"]
        once += len(own)
        of_rows += len(own) * len(responses)
        for ids in tokenizer([prompt + response + EOS for response in responses])["input_ids"]:
            assert ids[: len(own)] == own
            scored.append(len(ids) - len(own))
            rows.append(ids[:-1])
    rows.sort()  # every row behind the one that it shares most with
    shared = sum(_alike(*two) for two in itertools.pairwise(rows))
    return Counts(len(pairs), len(scored), once, of_rows, scored, sum(map(len, rows)) - shared)


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that both begin with."""
    shorter = min(len(one), len(other))
    return next((place for place in range(shorter) if one[place] != other[place]), shorter)


def with_long_prompts(tokenizer: Any, pairs: Pairs) -> dict[str, list[str]]:
    """The rows with `LONG_RESPONSES` responses to a prompt, which other solved problems make `LONG_TIMES` as long as these."""
    asked = list(pairs)
    found = {}
    for place, (prompt, responses) in enumerate(pairs.items()):
        chosen = list(responses)[:LONG_RESPONSES]
        lengths = [len(ids) for ids in tokenizer(chosen)["input_ids"]]
        wanted = round(LONG_TIMES * sum(lengths) / len(lengths))
        # Begins with another problem for every prompt, so that no prefix is common to all of them.
        others = (asked[(place + step) % len(asked)] for step in range(1, wanted))
        before = ""
        while len(tokenizer(before + prompt)["input_ids"]) < wanted:
            other = next(others)
            before += f"{other}{pairs[other][0]}\n\n"
        whole = before + prompt
        offsets = tokenizer(whole, return_offsets_mapping=True)["offset_mapping"]
        found[whole[offsets[max(0, len(offsets) - wanted)][0] :].lstrip()] = chosen
    return found


def write_rows(path: Path, pairs: Pairs) -> None:
    """The rows as the workers read them."""
    rows = ({"prompt": prompt, "response": response} for prompt, responses in pairs.items() for response in responses)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
