"""The packaged sample data set and reference model: stand-ins so that everything runs without a download.

Neither says anything about real data; `README.md` in this folder is their data card and model card.
"""

from pathlib import Path

from curate.errors import UsageError, near_miss

_FOLDER = Path(__file__).resolve().parent
_SPLITS = ("train", "validation", "test")


def sample_path(split: str = "train") -> Path:
    """The JSONL file of one split of the sample: train (answered by four sources), validation or test."""
    if split not in _SPLITS:
        raise UsageError(f"the sample has no split {split!r}; {near_miss(split, _SPLITS)}")
    return _FOLDER / "sample" / f"{split}.jsonl"


def model_path() -> Path:
    """The folder of the reference model: config, weights, tokenizer and chat template."""
    return _FOLDER / "model"
