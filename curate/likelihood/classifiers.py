"""Sequence classifiers: the logits of many texts, in batches of like length."""

from collections.abc import Sequence
from typing import Any

from curate import progress

BATCH_ROWS = 32


def class_logits(
    model: Any, tokenizer: Any, texts: Sequence[str], *, max_tokens: int, device: str
) -> list[tuple[list[float], bool]]:
    """For every text, in order, its logits and whether it was cut off at `max_tokens`. Batches depend on the texts alone."""
    import torch

    # A tokenizer takes no half of a surrogate pair.
    texts = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
    # One token more than the model takes: a text that has it is cut off.
    ids = tokenizer(texts, truncation=True, max_length=max_tokens + 1)["input_ids"]
    truncated = [len(row) > max_tokens for row in ids]
    for row in (row for row, is_cut in enumerate(truncated) if is_cut):
        ids[row] = tokenizer(texts[row], truncation=True, max_length=max_tokens)["input_ids"]
    results: list[tuple[list[float], bool]] = [([], False)] * len(texts)
    order = sorted(range(len(texts)), key=lambda row: (len(ids[row]), row))
    for start in range(0, len(order), BATCH_ROWS):
        rows = order[start : start + BATCH_ROWS]
        batch = tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt").to(device)
        with torch.inference_mode():
            logits = model(**batch)[0].double()  # (rows, classes)
        for row, values in zip(rows, logits.tolist(), strict=True):
            results[row] = (values, truncated[row])
        progress.tick(tokens=sum(len(ids[row]) for row in rows))
    return results
