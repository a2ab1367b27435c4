"""What a trained model answers: greedy generations, likelihoods of options and references. Nothing is judged here."""

import contextlib
import json
import math
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate import _fs
from curate.errors import InputError, UsageError
from curate.examples import Example
from curate.filters import Likelihood as LikelihoodFilter
from curate.likelihood import Engine, LanguageModel, Rendered, TokenSums, plan_batches
from curate.likelihood.model import Dtype, load_tokenizer
from curate.trials.tasks import Generation, Item, Task

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

COMMAND_TASK = "eval-command"
"""Under which name a report has the results of the user's own evaluation."""
LONGEST_BATCH = 128
"""Prompts that are answered together at most; a batch ends when its last answer does."""
SHARED_TOKENS = {"cpu": 16_384, "cuda": 131_072}
"""Padded tokens of a batch, prompts and answers, by device."""


@dataclass(frozen=True)
class Asker:
    """A model that is asked. With several processes each answers its part of the batches."""

    model: "PreTrainedModel"
    likelihood: LikelihoodFilter
    rank: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        import torch

        if self.model.dtype == torch.bfloat16:
            # It turns all but the matrices to float32: answers are not to depend on whether options were scored before.
            self._engine  # noqa: B018

    def generate(
        self, task: Task, items: Sequence[Item], on_items: Callable[[int], None] = lambda count: None
    ) -> dict[int, Generation]:
        """Greedy answers by item index, for the batches of this process. Batches are a function of the items alone.

        A prompt that leaves no room for the answer is not asked: its generation is empty and counts as cut off.
        """
        tokenizer = load_tokenizer(self.likelihood.spec)
        renderer = self.likelihood.renderer()
        prompts = renderer.prompts([item.messages for item in items])
        room = (self.likelihood.positions() or 1 << 30) - task.max_new_tokens
        asked = [place for place, ids in enumerate(prompts) if 0 < len(ids) <= room]
        found = {items[place].index: Generation("", 0, True) for place in range(len(items)) if place not in set(asked)}
        budget = SHARED_TOKENS["cuda" if self.likelihood.spec.device.startswith("cuda") else "cpu"]
        lengths = [len(prompts[place]) + task.max_new_tokens for place in asked]
        batches = [
            batch[at : at + LONGEST_BATCH]
            for batch in plan_batches(lengths, budget)
            for at in range(0, len(batch), LONGEST_BATCH)
        ]
        for batch in batches[self.rank :: self.processes]:
            places = [asked[index] for index in batch]
            answers = self._answer([prompts[place] for place in places], task, tokenizer)
            found |= {items[place].index: answer for place, answer in zip(places, answers, strict=True)}
            on_items(len(places))
        return found

    def _answer(self, prompts: Sequence[Sequence[int]], task: Task, tokenizer: Any) -> list[Generation]:
        import torch

        device = self.model.device
        width = max(map(len, prompts))
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)  # (B, T)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
        ends = _ends(self.model, tokenizer)
        with torch.inference_mode(), _greedy(self.model):
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=task.max_new_tokens,
                do_sample=False,
                eos_token_id=ends,
                pad_token_id=pad,
                stopping_criteria=[partial(_stopped, task.stop, tokenizer, width)] if task.stop else None,
            )[:, width:]
        return [_generation(row, ends, pad, task, tokenizer) for row in output.tolist()]

    def choose(self, items: Sequence[Item]) -> dict[int, list[tuple[float, int]]]:
        """For every item and option the sum of log-likelihoods (nats) and the option's characters.

        Raises InputError for an option that the template or the context length leaves unscored.
        """
        mine = items[self.rank :: self.processes]
        sums = iter(self._sums([example for item in mine for example in completed(item)]))
        found: dict[int, list[tuple[float, int]]] = {}
        for item in mine:
            options = []
            for option in item.options:
                scored = next(sums)
                if scored is None or scored.truncated:
                    raise InputError(f"trial: item {item.index}: option {option[:60]!r} cannot be scored (too long, or altered)")
                options.append((-scored.content_nll, len(option)))
            found[item.index] = options
        return found

    def held_out(self, examples: Sequence[Example]) -> tuple[float, int]:
        """Sum of the negative log-likelihoods (nats) of the completions' trained tokens, and their number."""
        mine = [sums for sums in self._sums(examples[self.rank :: self.processes]) if sums is not None]
        return math.fsum(sums.nll for sums in mine), sum(sums.tokens for sums in mine)

    @cached_property
    def _engine(self) -> Engine:
        import torch

        dtype: Dtype = "bfloat16" if self.model.dtype == torch.bfloat16 else "float32"
        spec = replace(self.likelihood.spec, dtype=dtype)
        return Engine(LanguageModel(self.model, load_tokenizer(spec), spec))

    def _sums(self, examples: Sequence[Example]) -> list[TokenSums | None]:
        spec = self.likelihood.spec
        rows = [row if isinstance(row, Rendered) else None for row in self.likelihood.renderer().render(examples)]
        budget = self.likelihood.batch_tokens or (32_768 if spec.device.startswith("cuda") else self._engine.budget())
        scored = iter(self._engine.score([row for row in rows if row is not None], batch_tokens=budget))
        results = [next(scored) if row is not None else None for row in rows]
        return [sums if isinstance(sums, TokenSums) else None for sums in results]


def completed(item: Item) -> list[Example]:
    """An item with each of its options as the answer."""
    return [Example(messages=[*item.messages, {"role": "assistant", "content": option}]) for option in item.options]


@contextlib.contextmanager
def _greedy(model: Any) -> Iterator[None]:
    """Put aside what a checkpoint says about sampling, penalties and lengths: `generate` fills in what it is not told."""
    from transformers import GenerationConfig

    owners = [model, *([model.get_base_model()] if hasattr(model, "get_base_model") else [])]
    before = [owner.generation_config for owner in owners]
    for owner in owners:
        owner.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for owner, config in zip(owners, before, strict=True):
            owner.generation_config = config


def _stopped(stops: Sequence[str], tokenizer: Any, width: int, ids: "torch.Tensor", _scores: Any, **_: Any) -> "torch.Tensor":
    """Which answers hold a stop string. transformers' own criterion also matches across the end of the prompt."""
    import torch

    # A character is at most four tokens of bytes; what lies further back was looked at in an earlier step.
    tail = 4 * max(map(len, stops)) + 4
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in ids[:, width:][:, -tail:].tolist()]
    return torch.tensor([any(stop in text for stop in stops) for text in texts], device=ids.device)


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: those of the tokenizer and of the model's own generation settings."""
    given = model.generation_config.eos_token_id if model.generation_config is not None else None
    return sorted({tokenizer.eos_token_id, *(given if isinstance(given, list) else [given] if given is not None else [])})


def _generation(ids: Sequence[int], ends: Sequence[int], pad: int, task: Task, tokenizer: Any) -> Generation:
    """One answer without its end. Cut off: neither an end token nor a stop string came."""
    end = next((place for place, token in enumerate(ids) if token in ends), None)
    kept = list(ids[:end]) if end is not None else list(ids)
    # A row that a stop string ended is filled up with padding, which need not be an end token.
    while end is None and kept and kept[-1] == pad:
        kept.pop()
    text = tokenizer.decode(kept, skip_special_tokens=True)
    stops = [place for stop in task.stop if (place := text.find(stop)) >= 0]
    return Generation(text[: min(stops)] if stops else text, len(kept), end is None and not stops)


@dataclass(frozen=True)
class EvalCommand:
    """The user's own evaluation: a command that is given a model and writes one line of JSON per item."""

    command: str

    def words(self) -> list[str]:
        """The program and its arguments, nothing filled in. Raises UsageError where they cannot be told apart."""
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise UsageError(f"--eval-command: cannot be read: {error}") from error
        if not words:
            raise UsageError("--eval-command: is empty")
        return words

    def check(self) -> None:
        """Raise UsageError where the command cannot be started."""
        program = self.words()[0]
        if "{" not in program and shutil.which(program) is None:
            raise UsageError(f"--eval-command {program}: no such program here, or not one that can be run")

    def run(self, folder: Path, *, base: str, adapter: Path | None, model: Path | None) -> dict[str, float]:
        """Run it; returns scores in [0, 1] by item name. Raises UsageError with its last words where it fails.

        `{base}`, `{adapter}`, `{model}` and `{out}` in the command are replaced, and CURATE_BASE and so on are set in its
        environment. `model` is a whole model, merged; `adapter` is empty where nothing was trained.
        """
        out = folder / "eval-command.jsonl"
        given = {"base": base, "adapter": str(adapter or ""), "model": str(model or base), "out": str(out)}
        out.unlink(missing_ok=True)
        words = [_filled(word, given) for word in self.words()]
        environment = {**os.environ, **{f"CURATE_{name.upper()}": value for name, value in given.items()}}
        try:
            done = subprocess.run(words, env=environment, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603  (the user's own)
        except OSError as error:
            raise UsageError(f"--eval-command {words[0]}: does not start ({error})") from error
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1][:300]
            raise UsageError(f"--eval-command: ended with exit code {done.returncode}: {last}")
        return read_item_scores(out)


def _filled(word: str, given: Mapping[str, str]) -> str:
    for name, value in given.items():
        word = word.replace(f"{{{name}}}", value)
    return word


def read_item_scores(path: Path) -> dict[str, float]:
    """`{"item": ..., "score": ...}` per line, scores in [0, 1]. Raises UsageError naming the line that is anything else."""
    try:
        text = path.read_text("utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--eval-command: wrote no results to {path} ({error}); it is told where by {{out}}") from error
    found: dict[str, float] = {}
    # Not `splitlines`: a name may hold what Python takes for a line's end.
    for number, line in enumerate(text.split("\n") if text else [], 1):
        try:
            record = json.loads(line)
            name, score = str(record["item"]), float(record["score"])
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise UsageError(f'{path}: line {number} is not {{"item": ..., "score": ...}}') from error
        if not 0 <= score <= 1:
            raise UsageError(f"{path}: line {number}: score {score:g} is not in [0, 1]")
        if name in found:
            raise UsageError(f"{path}: line {number}: item {name!r} stands there twice")
        found[name] = score
    if not found:
        raise UsageError(f"{path}: holds no results")
    return found


def save_generations(path: Path, items: Sequence[Item], found: Mapping[int, Generation]) -> None:
    """Commit every answer, so that it can be judged again by other rules."""
    import pyarrow as pa

    answers = [found[item.index] for item in items]
    table = pa.table(
        {
            "item": pa.array([item.index for item in items], pa.int64()),
            "key": pa.array([item.key for item in items], pa.string()),
            "text": pa.array([answer.text for answer in answers], pa.string()),
            "tokens": pa.array([answer.tokens for answer in answers], pa.int64()),
            "is_cut_off": pa.array([answer.is_cut_off for answer in answers], pa.bool_()),
        }
    )
    _fs.commit_table(path, table)


def load_generations(path: Path, items: Sequence[Item]) -> list[Generation]:
    """Answers as they were committed. Raises UsageError where the task has other items now."""
    records = _fs.read_table(path).to_pylist()
    _same_items(path, [record["key"] for record in records], items)
    return [Generation(record["text"], record["tokens"], record["is_cut_off"]) for record in records]


def save_choices(path: Path, items: Sequence[Item], found: Mapping[int, Sequence[tuple[float, int]]]) -> None:
    """Commit the likelihoods of all options."""
    import pyarrow as pa

    options = [found[item.index] for item in items]
    table = pa.table(
        {
            "item": pa.array([item.index for item in items], pa.int64()),
            "key": pa.array([item.key for item in items], pa.string()),
            "log_likelihood": pa.array([[value for value, _ in row] for row in options], pa.list_(pa.float64())),
            "characters": pa.array([[size for _, size in row] for row in options], pa.list_(pa.int64())),
        }
    )
    _fs.commit_table(path, table)


def load_choices(path: Path, items: Sequence[Item]) -> list[list[tuple[float, int]]]:
    """Likelihoods as they were committed. Raises UsageError where the task has other items now."""
    records = _fs.read_table(path).to_pylist()
    _same_items(path, [record["key"] for record in records], items)
    return [list(zip(record["log_likelihood"], record["characters"], strict=True)) for record in records]


def _same_items(path: Path, keys: Sequence[str], items: Sequence[Item]) -> None:
    if list(keys) != [item.key for item in items]:
        raise UsageError(f"{path}: answers other items than the task has now; run the trial again")
