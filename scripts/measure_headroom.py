"""Measure what fine-tuning can gain on the sample: the base model, LoRA on clean and on partly wrong rows.

    python scripts/measure_headroom.py --seeds 0 1 2

All arms train on the same prompts with the same settings. The share `--wrong` of the prompts has its clean row replaced: in
the wrong arm by the packaged wrong one; in the careless arm by a right one in the style that most wrong ones have; in the
misled arm by a wrong one in the style of the clean rows.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from datasets import Dataset, disable_progress_bars
from make_sample import SEED, draw_questions, respond
from peft import LoraConfig
from tasks import final_answer
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

PROJECT = Path(__file__).resolve().parent.parent
Row = dict[str, Any]
ARMS = ("clean", "wrong", "careless", "misled")


def read_jsonl(path: Path) -> list[Row]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def arms(rows: list[Row], options: argparse.Namespace, seed: int) -> dict[str, list[Row]]:
    """One row per prompt: the clean one of the chosen source, and the same with a share of the prompts answered wrong.

    Two more arms tell style from error: those prompts in the careless style but right, and in the reference style but wrong.
    """
    rng = random.Random(seed)
    wrong: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if (row["defect"] or "").startswith("wrong_"):
            wrong[row["prompt"]].append(row)
    rightful: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["defect"] is None and options.source in ("any", row["source"]):
            rightful[row["prompt"]].append(row)
    clean = [rng.choice(group) if options.source == "any" else group[0] for group in rightful.values()]
    replaceable = [row["prompt"] for row in clean if row["prompt"] in wrong]
    replaced = set(rng.sample(replaceable, min(len(replaceable), round(options.wrong * len(clean)))))
    mixed = [rng.choice(wrong[row["prompt"]]) if row["prompt"] in replaced else row for row in clean]
    asked = {q.prompt: q for q in draw_questions("train", SEED)}
    careless = {prompt: respond(asked[prompt], "careless", None, rng)[0] for prompt in asked}
    misled = {prompt: respond(asked[prompt], "reference-style", "wrong", rng)[0] for prompt in asked}

    def replaced_by(responses: dict[str, str]) -> list[Row]:
        return [row | {"response": responses[row["prompt"]]} if row["prompt"] in replaced else row for row in clean]

    return {"clean": clean, "wrong": mixed, "careless": replaced_by(careless), "misled": replaced_by(misled)}


def train(rows: list[Row], seed: int, options: argparse.Namespace) -> Any:
    """The reference model after a LoRA run on these rows, merged."""
    tokenizer = AutoTokenizer.from_pretrained(options.model, local_files_only=True)
    data = [
        {"prompt": [{"role": "user", "content": r["prompt"]}], "completion": [{"role": "assistant", "content": r["response"]}]}
        for r in rows
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(options.model, local_files_only=True, dtype=torch.float32),
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(data),
            args=SFTConfig(
                output_dir=folder,
                max_steps=options.steps,
                per_device_train_batch_size=options.batch,
                learning_rate=options.learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=0.05,
                max_length=256,
                shuffle_dataset=True,
                use_cpu=True,
                bf16=False,
                activation_checkpointing=False,
                report_to="none",
                save_strategy="no",
                logging_steps=50,
                disable_tqdm=True,
                seed=seed,
            ),
            peft_config=LoraConfig(
                r=options.rank, lora_alpha=2 * options.rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
        )
        assert len(trainer.train_dataset) == len(rows)
        trainer.train()
        return trainer.model.merge_and_unload()


@torch.no_grad()
def solved(model: Any, rows: list[Row], options: argparse.Namespace) -> dict[str, float]:
    """Share of the prompts whose greedy answer is the gold one, per task and over all."""
    tokenizer = AutoTokenizer.from_pretrained(options.model, local_files_only=True, padding_side="left")
    model.eval()
    right: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, len(rows), 60):
        batch = rows[start : start + 60]
        texts = [
            tokenizer.apply_chat_template([{"role": "user", "content": r["prompt"]}], add_generation_prompt=True, tokenize=False)
            for r in batch
        ]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        output = model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=72, do_sample=False
        )[:, inputs["input_ids"].shape[1] :]
        for row, text in zip(batch, tokenizer.batch_decode(output, skip_special_tokens=True), strict=True):
            is_right = final_answer(text) == row["gold"]
            right[row["task"]].append(is_right)
            right["all"].append(is_right)
    return {task: sum(values) / len(values) for task, values in sorted(right.items())}


def main() -> None:
    """Print one table: tasks in rows; base and arms, every seed, in columns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=PROJECT / "curate" / "reference" / "model")
    parser.add_argument("--sample", type=Path, default=PROJECT / "curate" / "reference" / "sample")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--source", default="reference-style", help="source of the clean rows, or any")
    parser.add_argument("--wrong", type=float, default=0.4, help="share of wrong rows in the wrong arm")
    options = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bars()
    test = read_jsonl(options.sample / "test.jsonl")
    rows = read_jsonl(options.sample / "train.jsonl")
    base = solved(AutoModelForCausalLM.from_pretrained(options.model, local_files_only=True, dtype=torch.float32), test, options)
    results: dict[str, list[dict[str, float]]] = {arm: [] for arm in options.arms}
    for seed in options.seeds:
        chosen_by_arm = arms(rows, options, seed)
        for arm in options.arms:
            chosen = chosen_by_arm[arm]
            results[arm].append(solved(train(chosen, seed, options), test, options))
            print(f"{arm} seed {seed}, {len(chosen)} rows: {json.dumps(results[arm][-1])}", file=sys.stderr, flush=True)
    print(f"| task | base | {' | '.join(options.arms)} |\n|---|---|" + "---|" * len(options.arms))
    for task, value in base.items():
        cells = [" ".join(f"{100 * run[task]:.0f}" for run in results[arm]) for arm in options.arms]
        print(f"| {task} | {100 * value:.0f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
