"""Which model: its identity without loading it, and loading it safely."""

import ctypes
import functools
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xxhash

from curate.errors import ModelError, near_miss

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Dtype = Literal["float32", "bfloat16"]
# Everything in a model folder that can change a score. Weights only as safetensors: pickled ones run code when loaded.
_TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "chat_template*", "vocab*", "merges.txt", "added_tokens.json")
_MODEL_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class ModelSpec:
    """What has to be known to load a model: a local folder or a Hub id, and how to run it."""

    model: str
    revision: str | None = None
    dtype: Dtype = "float32"
    device: str = "cpu"
    chat_template: str | None = None
    """A template's text that replaces the tokenizer's own."""


@dataclass(frozen=True)
class LanguageModel:
    """A loaded model with its tokenizer."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    spec: ModelSpec


@functools.cache
def default_device() -> str:
    """`cuda` where the driver reports a device, else `cpu`; asks the driver itself, because importing torch takes seconds."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        count = ctypes.c_int(0)
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0:
            return "cuda"
    return "cpu"


def default_dtype(device: str) -> Dtype:
    """bfloat16 where the hardware is made for it, float32 elsewhere."""
    return "bfloat16" if device.startswith("cuda") else "float32"


def _local_folder(model: str) -> Path | None:
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{model}: no config.json there; a model folder as `save_pretrained` writes it is needed")
        return folder
    if model.startswith((".", "/", "~")) or model.count("/") > 1 or folder.exists():
        known = [path.name for path in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise ModelError(f"{model}: no such model folder; {near_miss(folder.name, known, listing='there are')}")
    return None


def model_identity(model: str, revision: str | None) -> dict[str, str]:
    """What the weights and tokenizer are: a hash of the folder's files, or the Hub commit. Needs no torch.

    Raises ModelError when the folder or repository cannot be used.
    """
    folder = _local_folder(model)
    if folder is not None:
        return _folder_identity(folder.resolve())
    return {"repository": model, "revision": _hub_commit(model, revision)}


@functools.cache
def _folder_identity(folder: Path) -> dict[str, str]:
    def digest(patterns: tuple[str, ...]) -> str:
        total = xxhash.xxh3_128()
        for path in sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}):
            total.update(path.name.encode() + b"\0")
            with path.open("rb") as file:
                while block := file.read(1 << 22):
                    total.update(block)
        return total.hexdigest()

    if not list(folder.glob("*.safetensors")):
        pickled = [path.name for pattern in ("*.bin", "*.pt", "*.ckpt") for path in folder.glob(pattern)]
        found = f"only {', '.join(pickled)}, which can run code when loaded" if pickled else "none"
        raise ModelError(f"{folder}: weights as *.safetensors are needed, found {found}; save it with `save_pretrained`")
    return {"weights": digest(_MODEL_FILES), "tokenizer": digest(_TOKENIZER_FILES)}


@functools.cache
def _hub_commit(model: str, revision: str | None) -> str:
    """The commit that `revision` names now; from the local cache when the Hub is switched off."""
    if revision and _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    wanted = f"{model}@{revision}" if revision else model
    try:
        if constants.HF_HUB_OFFLINE:
            cached = snapshot_download(model, revision=revision, local_files_only=True, allow_patterns=["config.json"])
            return Path(cached).name
        sha = HfApi().model_info(model, revision=revision).sha
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ModelError(f"{wanted}: no such model on the Hub, or not visible to you (private or gated: set HF_TOKEN)") from error
    except OSError as error:
        raise ModelError(f"{wanted}: neither a local folder nor reachable on the Hub ({type(error).__name__})") from error
    assert sha is not None
    return sha


@functools.lru_cache(maxsize=4)
def load_tokenizer(spec: ModelSpec) -> "PreTrainedTokenizerBase":
    """The tokenizer alone; raises ModelError when it has no offsets (no tokenizer.json) or no end-of-sequence token."""
    from transformers import AutoTokenizer

    where, revision = _where(spec)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"{spec.model}: tokenizer cannot be loaded ({_one_line(error)})") from error
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"{spec.model}: its tokenizer gives no character offsets; one with a tokenizer.json is needed")
    if tokenizer.eos_token is None:
        raise ModelError(f"{spec.model}: its tokenizer has no eos_token, which SFTTrainer appends to completions; set one")
    if spec.chat_template is not None:
        tokenizer.chat_template = spec.chat_template
    return tokenizer


def load_model(spec: ModelSpec) -> LanguageModel:
    """Load model and tokenizer: safetensors only, no remote code, evaluation mode, no gradients."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    tokenizer = load_tokenizer(spec)
    where, revision = _where(spec)
    disable_progress_bar()  # a bar per weight file, on top of ours
    try:
        model = AutoModelForCausalLM.from_pretrained(
            where,
            revision=revision,
            dtype=getattr(torch, spec.dtype),  # without it the checkpoint's own type decides (transformers 5)
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{spec.model}: cannot be loaded as a causal language model ({_one_line(error)})") from error
    embeddings = model.get_input_embeddings().weight.shape[0]
    highest = max(tokenizer.get_vocab().values(), default=0)
    if highest >= embeddings:
        raise ModelError(
            f"{spec.model}: its tokenizer has token {highest}, its model only {embeddings} embeddings; they are no pair"
        )
    model.requires_grad_(False)
    return LanguageModel(model.eval().to(spec.device), tokenizer, spec)


def maximal_length(spec: ModelSpec) -> int | None:
    """Positions that the model was made for, from its config alone; None when it does not say."""
    config = _read_config(spec)
    value = config.get("max_position_embeddings") or config.get("n_positions")
    return int(value) if isinstance(value, int) and value > 0 else None


def _read_config(spec: ModelSpec) -> dict[str, Any]:
    folder = _local_folder(spec.model)
    if folder is None:
        from huggingface_hub import hf_hub_download

        folder = Path(hf_hub_download(spec.model, "config.json", revision=_hub_commit(spec.model, spec.revision))).parent
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{spec.model}: config.json cannot be read ({_one_line(error)})") from error
    if not isinstance(config, dict):
        raise ModelError(f"{spec.model}: config.json holds no object; a folder as `save_pretrained` writes it is needed")
    return config


def _where(spec: ModelSpec) -> tuple[str, str | None]:
    """Folder, or repository with the commit that the fingerprint was taken of: the branch may move meanwhile."""
    folder = _local_folder(spec.model)
    if folder is not None:
        return os.fspath(folder), None
    return spec.model, _hub_commit(spec.model, spec.revision)


def _one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
