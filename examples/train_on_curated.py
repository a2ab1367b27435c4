"""Fine-tune a model with LoRA on a split that was curated.

    python examples/train_on_curated.py --dataset USER/NAME --model Qwen/Qwen2.5-0.5B-Instruct
    python examples/train_on_curated.py --dataset ./publication --model ./my-model --max-steps 20

Needs trl, peft and datasets, and nothing of curate: what was published is plain Parquet in TRL's prompt/completion layout.
The loss falls on the completion alone, on the tokens that were scored.
"""

import argparse
from pathlib import Path

from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Fine-tune a model with LoRA on a split that was curated.")
    parser.add_argument("--dataset", required=True, help="USER/NAME on the Hub, or the folder of a publication")
    parser.add_argument("--revision", help="tag or commit of the data set; name one, and the same rows come next year")
    parser.add_argument("--split", default="train", help="default: train")
    parser.add_argument("--model", required=True, help="the model that the rows were chosen for: folder or Hub id")
    parser.add_argument("--out", default=Path("trained"), type=Path, help="folder of the adapters; default: trained")
    parser.add_argument("--max-length", default=1024, type=int, help="tokens per row, as the rows were scored; default: 1024")
    parser.add_argument("--max-steps", default=-1, type=int, help="stop after so many steps; default: three epochs")
    parser.add_argument("--batch", default=8, type=int, help="rows per step; default: 8")
    parser.add_argument("--learning-rate", default=2e-4, type=float, help="default: 2e-4")
    parser.add_argument("--cpu", action="store_true", help="train without a GPU, in float32")
    return parser.parse_args()


def main() -> None:
    """Load, train, save."""
    asked = arguments()
    rows = load_dataset(asked.dataset, revision=asked.revision, split=asked.split)
    trainer = SFTTrainer(
        model=asked.model,
        args=SFTConfig(
            output_dir=str(asked.out),
            max_length=asked.max_length,
            max_steps=asked.max_steps,
            num_train_epochs=3,
            per_device_train_batch_size=asked.batch,
            learning_rate=asked.learning_rate,
            use_cpu=asked.cpu,
            bf16=not asked.cpu,
            report_to="none",
        ),
        train_dataset=rows,
        peft_config=LoraConfig(),
    )
    trainer.train()
    trainer.save_model()
    print(f"trained on {len(rows):,} rows of {asked.dataset}; adapters in {asked.out}")


if __name__ == "__main__":
    main()
