"""One training of one arm: TRL's SFTTrainer on exactly the rows and the order that the plan names."""

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate import _fs
from curate.errors import InputError, IntegrityError, ModelError, ResourceError, UsageError
from curate.examples import Example
from curate.filters import Likelihood
from curate.likelihood.model import load_model, load_tokenizer
from curate.recipes.trial import Training

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import SFTTrainer

CHECKPOINTS = 5
"""Checkpoints per training; a killed one loses at most this part of its work."""
COMPLETE = "curate-complete.json"
"""Written into a checkpoint after all its files: one without it was being written when the process died."""
PATIENCE_S = 30 * 24 * 3600
"""For how long processes of one run wait for each other: one of them may run an evaluation of the user's meanwhile."""


@dataclass(frozen=True)
class Trained:
    """What a training left behind."""

    model: "PreTrainedModel"
    """Ready to be asked, see `askable`."""
    seconds: float
    loss: Sequence[tuple[int, float]]
    """Step and mean training loss (nats per token) since the last of them."""
    resumed_at: int
    """Step of the checkpoint that it went on from; 0 where it began anew."""
    adapted: Any = None
    """The model with the adapters that are not merged into it."""

    def whole(self) -> "PreTrainedModel":
        """The model with adapters merged in float32, on the CPU. To be called last: nothing can be asked afterwards."""
        if self.adapted is None:
            return self.model.cpu()
        found: PreTrainedModel = self.adapted.cpu().float().merge_and_unload()
        return found


def train(
    examples: Sequence[Example],
    sequence: Sequence[int],
    likelihood: Likelihood,
    how: Training,
    *,
    rate: float,
    steps: int,
    seed: int,
    folder: Path,
    processes: int = 1,
    checkpoints: int = CHECKPOINTS,
    on_step: Callable[[int], None] = lambda step: None,
    on_save: Callable[[], None] = lambda: None,
) -> Trained:
    """Train and return the model. `sequence` indexes `examples`: the rows of all steps, one batch after the other.

    Goes on from the last complete checkpoint in `folder`. Raises InputError where the trainer would drop rows, ResourceError
    where memory gives out.
    """
    import torch

    if len(sequence) != steps * how.batch:
        raise AssertionError(f"{len(sequence)} rows for {steps} steps of {how.batch}")
    begin = time.monotonic()
    found = last_checkpoint(folder)
    trainer = make_trainer(
        examples,
        sequence,
        likelihood,
        how,
        rate=rate,
        steps=steps,
        seed=seed,
        folder=folder,
        processes=processes,
        checkpoints=checkpoints,
        callback=_callback(on_step, on_save),
    )
    try:
        trainer.train(resume_from_checkpoint=None if found is None else str(found))
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"trial: memory ran out in training at micro_batch {_micro_batch(how, likelihood, processes)}; set a smaller "
            "`training: micro_batch` (the result stays the same: gradients are accumulated to the batch)"
        ) from error
    history = [(int(entry["step"]), float(entry["loss"])) for entry in trainer.state.log_history if "loss" in entry]
    if any(not math.isfinite(loss) for _, loss in history):
        raise ModelError(f"trial: the training loss is not finite at learning rate {rate:g}; set a smaller one")
    model = trainer.accelerator.unwrap_model(trainer.model)
    resumed = 0 if found is None else int(found.name.rpartition("-")[2])
    adapted = model if how.method == "lora" and not _is_float32(model) else None
    return Trained(askable(model), time.monotonic() - begin, history, resumed, adapted)


def askable(model: Any) -> "PreTrainedModel":
    """The model in evaluation mode, adapters merged into weights in float32 and left beside those in bfloat16.

    Merged there, an update below half a step of the weight's eight bits would be lost; beside it, it is rounded by itself.
    """
    if hasattr(model, "merge_and_unload"):
        if _is_float32(model):
            model = model.merge_and_unload()
        else:
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.data = parameter.data.to(model.dtype)
            model = model.get_base_model()
    model.requires_grad_(False)
    return model.eval()


def _is_float32(model: Any) -> bool:
    import torch

    return bool(model.dtype == torch.float32)


def make_trainer(
    examples: Sequence[Example],
    sequence: Sequence[int],
    likelihood: Likelihood,
    how: Training,
    *,
    rate: float,
    steps: int,
    seed: int,
    folder: Path,
    processes: int = 1,
    checkpoints: int = CHECKPOINTS,
    callback: Any = None,
) -> "SFTTrainer":
    """The trainer, with the tokenised rows in the order of `sequence`."""
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    disable_progress_bar()
    spec = likelihood.spec
    is_cuda = spec.device.startswith("cuda")
    precision = _precision(how, spec.device)
    tokenizer = load_tokenizer(spec)
    micro = _micro_batch(how, likelihood, processes)
    args = SFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=how.batch // (micro * processes),
        learning_rate=rate,
        lr_scheduler_type=how.schedule,
        warmup_steps=round(how.warm_up * steps),
        weight_decay=how.weight_decay,
        max_length=likelihood.resolved_max_length(),
        packing=False,
        completion_only_loss=True,
        shuffle_dataset=False,
        train_sampling_strategy="sequential",
        use_cpu=not is_cuda,
        bf16=precision == "bfloat16",
        activation_checkpointing=is_cuda,
        seed=seed,
        data_seed=seed,
        report_to="none",
        logging_strategy="steps",
        logging_nan_inf_filter=False,  # a loss that is not finite has to be seen
        logging_steps=max(1, steps // 50),
        save_strategy="steps",
        save_steps=save_steps(steps, checkpoints),
        save_total_limit=2,
        disable_tqdm=True,
        dataloader_pin_memory=is_cuda,
        ddp_find_unused_parameters=False if processes > 1 else None,
        ddp_timeout=PATIENCE_S,
    )
    if (args.world_size, max(1, args.n_gpu)) != (processes, 1):
        raise AssertionError(f"{args.world_size} processes of {args.n_gpu} GPUs each, planned were {processes} of one")
    adapters = None
    if how.method == "lora":
        targets = how.targets if isinstance(how.targets, str) else list(how.targets)
        adapters = LoraConfig(
            r=how.rank, lora_alpha=how.alpha, lora_dropout=how.dropout, target_modules=targets, task_type="CAUSAL_LM"
        )
    model = initial_model(likelihood, how, seed=seed)
    try:
        trainer = SFTTrainer(
            model=model,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(trl_rows(examples, tokenizer)),
            args=args,
            peft_config=adapters,
            callbacks=[callback or _callback()],
        )
    except ValueError as error:
        if "target modules" in str(error).lower():
            raise UsageError(f"trial: `training: targets` {how.targets}: {str(error).splitlines()[0]}") from error
        raise
    left = len(trainer.train_dataset)
    if left != len(examples):  # rows that it would drop are no rows of any arm: see pool.py
        raise InputError(f"trial: SFTTrainer kept {left} of {len(examples)} rows; please report this, arms would differ silently")
    trainer.train_dataset = trainer.train_dataset.select(list(sequence))
    return trainer


def trl_rows(examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase") -> list[dict[str, Any]]:
    """Rows in the layout in which they were scored: message lists under a chat template, else strings."""
    if tokenizer.chat_template is not None:
        return [{"prompt": list(example.prompt), "completion": [example.messages[-1]]} for example in examples]
    return [{"prompt": example.messages[0]["content"], "completion": example.completion} for example in examples]


def initial_model(likelihood: Likelihood, how: Training, *, seed: int) -> Any:
    """The model before the first step. Weights in float32 where all of them are trained, adapters are always in float32."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if how.method == "from_scratch":
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(_configuration(likelihood, how), dtype=torch.float32)
    spec = likelihood.spec
    dtype = _precision(how, spec.device) if how.method == "lora" else "float32"
    loaded = load_model(type(spec)(**{**spec.__dict__, "dtype": dtype, "device": "cpu"}))
    loaded.model.train()
    if how.method == "full":
        loaded.model.requires_grad_(True)
    return loaded.model


def _configuration(likelihood: Likelihood, how: Training) -> Any:
    """Shape of a model that is trained from scratch, its vocabulary that of the tokenizer."""
    from transformers import AutoConfig

    try:
        if isinstance(how.config, dict):
            given = dict(how.config)
            config = AutoConfig.for_model(given.pop("model_type"), **given)
        elif how.config is not None and Path(how.config).is_file():
            given = json.loads(Path(how.config).read_bytes())
            config = AutoConfig.for_model(given.pop("model_type"), **given)
        else:
            config = AutoConfig.from_pretrained(how.config or likelihood.model, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"trial: `training: config` {how.config!r} is no model configuration ({error})") from error
    vocabulary = len(load_tokenizer(likelihood.spec))
    if config.vocab_size < vocabulary:
        raise UsageError(f"trial: `training: config` has {config.vocab_size} tokens, the tokenizer {vocabulary}")
    return config


def _precision(how: Training, device: str) -> str:
    if how.precision != "auto":
        return how.precision
    if not device.startswith("cuda"):
        return "float32"
    import torch

    return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"


def _micro_batch(how: Training, likelihood: Likelihood, processes: int) -> int:
    """Rows per forward pass and process; divides each process's share of the batch."""
    if how.batch % processes:
        raise UsageError(f"trial: a batch of {how.batch} cannot be dealt to {processes} processes; choose a multiple")
    share = how.batch // processes
    wanted = how.micro_batch or (min(share, 8) if likelihood.spec.device.startswith("cuda") else share)
    return next(size for size in range(min(wanted, share), 0, -1) if share % size == 0)


def save_steps(steps: int, checkpoints: int = CHECKPOINTS) -> int:
    """Steps between checkpoints; the last one stands after the last step."""
    return max(1, math.ceil(steps / checkpoints))


def _callback(on_step: Callable[[int], None] = lambda step: None, on_save: Callable[[], None] = lambda: None) -> Any:
    """Tells of every step and save, and marks a checkpoint complete when all its files are there."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            on_step(int(state.global_step))

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                files = {path.name: _fs.sha256(path) for path in sorted(checkpoint.iterdir()) if path.is_file()}
                _fs.commit_json(checkpoint / COMPLETE, files)
            on_save()

    return Watch()


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; those that are not are removed. Only files that we wrote are read."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for checkpoint in found:
        if _is_whole(checkpoint):
            return checkpoint
        shutil.rmtree(checkpoint, ignore_errors=True)  # every process of a run may try
    return None


def _is_whole(checkpoint: Path) -> bool:
    try:
        files = _fs.read_json(checkpoint / COMPLETE)
        return all(_fs.sha256(checkpoint / name) == digest for name, digest in files.items())
    except (IntegrityError, OSError):
        return False
