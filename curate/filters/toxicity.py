"""The `toxicity` filter: Detoxify's classifiers, loaded without running code from them and without a silent download."""

import functools
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import xxhash
from pydantic import Field

from curate import progress
from curate.errors import ModelError, NetworkError
from curate.examples import Example
from curate.filters.base import Filter, OutputType, Scores, Unscored, register
from curate.filters.learned_detector import probability
from curate.likelihood import default_device
from curate.likelihood.classifiers import class_logits
from curate.likelihood.model import check_device

Variant = Literal["original", "unbiased", "multilingual", "original-small", "unbiased-small"]
_MOST_TOKENS = 512
# Detoxify's own names for what the checkpoints of the first challenge call otherwise.
_CLASSES = {"toxic": "toxicity", "identity_hate": "identity_attack", "severe_toxic": "severe_toxicity"}
_CONFIG_FILES = ("config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.model")


@register("toxicity")
class Toxicity(Filter):
    """Probabilities that the completion is toxic, by one of the Detoxify classifiers. Higher is worse.

    Outputs (probabilities in [0, 1], each on its own; null where the checkpoint has no such class):
        toxicity: rude, disrespectful or unreasonable.
        severe_toxicity: very hateful or aggressive.
        obscene: swear words and obscenities.
        threat: announces harm.
        insult: insults a person or a group.
        identity_attack: attacks an identity, such as a religion.
        sexual_explicit: speaks of sex explicitly (`unbiased` and `multilingual` only).
        truncated: the completion is longer than 512 tokens, and its beginning was read.

    Unscored: `empty completion`.
    Nothing is downloaded unless `download: true` says so. Give `checkpoint` and `config` (a folder with config.json and tokenizer
    of the base model), or name a `variant` that lies in torch's and the Hub's caches already.
    Known failures: trained on comments of Wikipedia and Civil Comments; mentions of identities, quotations and counter-speech
    score too high, veiled hostility too low. English only, but for `multilingual`.
    Cost: one pass of a BERT-sized encoder (12 layers) per row, in batches of 32 of like length.
    Source: Detoxify (github.com/unitaryai/detoxify). Its published checkpoints were not at hand when this was tested; a small one
    of the same layout was. Checkpoints are loaded with `weights_only=True`, where Detoxify itself would run code from them.
    """

    version: ClassVar[int] = 1
    described_by_identity: ClassVar = ("checkpoint", "config", "variant", "download")
    outputs: ClassVar[dict[str, OutputType]] = {
        "toxicity": "float64",
        "severe_toxicity": "float64",
        "obscene": "float64",
        "threat": "float64",
        "insult": "float64",
        "identity_attack": "float64",
        "sexual_explicit": "float64",
        "truncated": "bool",
    }

    variant: Variant = Field(default="original", description="Which published checkpoint, where no `checkpoint` is given.")
    checkpoint: Path | None = Field(default=None, description="A Detoxify checkpoint file (.ckpt).")
    config: Path | None = Field(default=None, description="Folder with config and tokenizer of the checkpoint's base model.")
    download: bool = Field(default=False, description="Fetch from GitHub and the Hub what is not in the caches.")
    device: str | None = Field(default=None, exclude=True, description="cpu, cuda, cuda:1 ...; default: cuda where there is one.")

    def identity(self) -> dict[str, Any]:
        """Hash of the checkpoint, and of config and tokenizer. Raises ModelError where they are not there."""
        checkpoint, config = self._files()
        found = sorted({path for pattern in _CONFIG_FILES for path in config.glob(pattern) if path.is_file()})
        return {"weights": _digest(_stamp([checkpoint])), "config": _digest(_stamp(found))}

    def freeze(self) -> dict[str, Any]:
        """Device and versions."""
        import torch
        import transformers

        device = self.device or default_device()
        check_device(device)
        return {"device": device, "torch": torch.__version__, "transformers": transformers.__version__}

    def score_batch(self, examples: Sequence[Example]) -> list[Scores | Unscored]:
        """One pass over all completions."""
        rows = [row for row, example in enumerate(examples) if example.completion.strip()]
        results: list[Scores | Unscored] = [Unscored("empty completion")] * len(examples)
        if rows:
            classifier = _load(*self._files(), self.device or default_device())
            for row, scores in zip(rows, classifier.score([examples[row].completion for row in rows]), strict=True):
                results[row] = {name: scores.get(name) for name in self.outputs}
        return results

    def _files(self) -> tuple[Path, Path]:
        """Checkpoint and config folder."""
        if self.checkpoint is None:
            checkpoint = _published(self.variant, download=self.download)
        else:
            checkpoint = self.checkpoint.expanduser()
            if not checkpoint.is_file():
                raise ModelError(f"toxicity: no such checkpoint {checkpoint}; give the .ckpt file of a Detoxify model")
        return checkpoint, _config_folder(checkpoint, self.config, download=self.download)


def _published(variant: str, *, download: bool) -> Path:
    """A published checkpoint in torch's cache, fetched there when asked for."""
    import torch
    from detoxify.detoxify import MODEL_URLS

    url = MODEL_URLS[variant]
    path: Path = Path(torch.hub.get_dir()) / "checkpoints" / str(url).rpartition("/")[2]
    if path.is_file():
        return path
    if not download:
        raise ModelError(
            f"toxicity: the checkpoint {path.name} of {variant!r} is not in torch's cache; "
            "say `download: true` to fetch it from GitHub, or give `checkpoint: FILE` and `config: FOLDER`"
        )
    progress.note(f"toxicity: fetching {url}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # The end of the name is the beginning of the file's sha256: what arrives is checked against it.
        torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2], progress=False)
    except (OSError, RuntimeError) as error:
        raise NetworkError(f"toxicity: {url} cannot be fetched ({error})") from error
    return path


def _config_folder(checkpoint: Path, config: Path | None, *, download: bool) -> Path:
    """Folder with config and tokenizer: as given, beside the checkpoint, or the base model's in the Hub's cache."""
    if config is not None or (checkpoint.parent / "config.json").is_file():
        folder: Path = checkpoint.parent if config is None else config.expanduser()
        if not (folder / "config.json").is_file():
            raise ModelError(f"toxicity: no config.json in {folder}; give the folder of the checkpoint's base model as `config`")
        return folder
    return _hub_config(_base_model(checkpoint), download=download)


@functools.lru_cache(maxsize=4)
def _base_model(checkpoint: Path) -> str:
    return str(_read(checkpoint)["config"]["arch"]["args"]["model_type"])


def _hub_config(repository: str, *, download: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [name for name in _CONFIG_FILES if name != "*.model"] + ["sentencepiece*", "spiece.model"]
    try:
        return Path(snapshot_download(repository, local_files_only=not download, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        hint = "" if download else "say `download: true` to fetch them, or "
        raise ModelError(
            f"toxicity: config and tokenizer of {repository} are not in the Hub's cache; {hint}give their folder as `config`"
        ) from error


def _read(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's content; tensors and plain values only, so that a hostile file runs nothing."""
    import pickle

    import torch

    try:
        with warnings.catch_warnings():  # torch 2.13 warns of a pickle that it then refuses
            warnings.simplefilter("ignore", UserWarning)
            found = torch.load(checkpoint, map_location="cpu", weights_only=True)
        facts = found["config"]["arch"]["args"], found["config"]["dataset"]["args"]["classes"], found["state_dict"]
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"toxicity: {checkpoint} is no Detoxify checkpoint ({type(error).__name__}: {_line(error)})") from error
    assert all(part is not None for part in facts)
    return dict(found)


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200]


@dataclass(frozen=True)
class _Classifier:
    """A loaded checkpoint."""

    model: Any
    tokenizer: Any
    classes: tuple[str, ...]
    device: str

    def score(self, texts: Sequence[str]) -> list[dict[str, float | bool]]:
        """Probabilities per class for every text, in order."""
        found = class_logits(self.model, self.tokenizer, texts, max_tokens=_MOST_TOKENS, device=self.device)
        # Behind its named classes the `unbiased` checkpoint has outputs for identities, which Detoxify does not name.
        return [
            {**{name: probability(value) for name, value in zip(self.classes, logits, strict=False)}, "truncated": truncated}
            for logits, truncated in found
        ]


def _load(checkpoint: Path, config: Path, device: str) -> _Classifier:
    """A classifier, loaded once per process and again when its file changes."""
    check_device(device)
    return _loaded(checkpoint, config, device, _stamp([checkpoint]))


@functools.lru_cache(maxsize=1)
def _loaded(checkpoint: Path, config: Path, device: str, stamp: object) -> _Classifier:
    from detoxify.detoxify import get_model_and_tokenizer

    found = _read(checkpoint)
    # Detoxify 0.5.4 looks `model_type` up on the Hub even where a folder is given: the folder stands in for it.
    arch = {**found["config"]["arch"]["args"], "model_type": str(config)}
    try:
        model, tokenizer = get_model_and_tokenizer(**arch, state_dict=found["state_dict"], huggingface_config_path=str(config))
    except (OSError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"toxicity: {checkpoint} does not fit the config in {config} ({_line(error)})") from error
    classes = [_CLASSES.get(name, name) for name in found["config"]["dataset"]["args"]["classes"]]
    return _Classifier(model.eval().to(device), tokenizer, tuple(classes), device)


def _stamp(paths: Sequence[Path]) -> tuple[tuple[str, int, int], ...]:
    return tuple((os.fspath(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths)


@functools.lru_cache(maxsize=16)
def _digest(stamp: tuple[tuple[str, int, int], ...]) -> str:
    """Hash of files, read once for as long as they stay as they are."""
    total = xxhash.xxh3_128()
    for path, _, _ in stamp:
        total.update(Path(path).name.encode() + b"\0")
        with Path(path).open("rb") as file:
            while block := file.read(1 << 22):
                total.update(block)
    return total.hexdigest()
