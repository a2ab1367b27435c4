"""Which model: its identity without loading it, and loading it safely."""

import contextlib
import ctypes
import functools
import importlib.util
import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xxhash

from curate.errors import ModelError, NetworkError, UsageError, near_miss
from curate.likelihood.memory import keep_freed_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Dtype = Literal["float32", "bfloat16"]
Quantize = Literal["4bit", "8bit"]
# Everything in a model folder that can change a score. Weights only as safetensors: pickled ones run code when loaded.
_TOKENIZER_FILES = (
    *("tokenizer*", "*.model", "*.tiktoken", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template*", "additional_chat_templates/*.jinja"),
)
_MODEL_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
_COMMIT = re.compile(r"[0-9a-f]{40}")
ATTENTION = ("sdpa", "eager")
"""What is asked of every model: the first where its architecture has it, else the second."""


_MERGE = "merge the adapter first: PeftModel.merge_and_unload().save_pretrained(FOLDER), and its tokenizer beside it"


@dataclass(frozen=True)
class ModelSpec:
    """What has to be known to load a model: a local folder or a Hub id, and how to run it."""

    model: str
    revision: str | None = None
    dtype: Dtype = "float32"
    device: str = "cpu"
    """As torch names it, or `auto`: spread over all GPUs."""
    chat_template: str | None = None
    """A template's text that replaces the tokenizer's own."""
    quantize: Quantize | None = None
    """In what the body's weight matrices are held; None: in `dtype`."""

    def digest(self) -> str:
        """What the model is now, on which the caches of loaded tokenizers and models hang."""
        return json.dumps(model_identity(self.model, self.revision), sort_keys=True)


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
    return "float32" if device == "cpu" else "bfloat16"


@functools.cache
def check_device(device: str) -> None:
    """Raise UsageError for a device that is not there; asked before anything is planned for it."""
    if device == "cpu":
        return
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = ["cpu", *(["auto", "cuda"] if count else []), *(f"cuda:{index}" for index in range(count))]
    if device not in there:
        raise UsageError(f"--device {device}: no such device; torch {torch.__version__} finds {', '.join(there)}")


def device_name(device: str) -> str:
    """What runs, as its maker calls it; for `auto` all GPUs."""
    import torch

    if device == "cpu":
        return "cpu"
    if device != "auto":
        return str(torch.cuda.get_device_name(device))
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def check_quantize(spec: ModelSpec) -> None:
    """Raise UsageError where the weights cannot be quantised as asked; asked before anything is planned."""
    if spec.quantize is None:
        return
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(f'--quantize {spec.quantize} needs bitsandbytes; install it with: pip install "curate-sft[4bit]"')
    if "quantization_config" in _read_config(spec):
        raise UsageError(f"--quantize {spec.quantize}: {spec.model} holds quantised weights already; leave the option out")


def _local_folder(model: str) -> Path | None:
    folder = Path(model).expanduser()
    if folder.is_dir():
        if (folder / "adapter_config.json").exists():  # transformers would load base and adapter, and only one is hashed
            raise ModelError(f"{model}: holds a PEFT adapter; {_MERGE}")
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
        folder = folder.resolve()
        return dict(_folder_identity(folder, _listing(folder)))
    return {"repository": model, "revision": _hub_commit(model, revision)}


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def _listing(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Name, size and times of what is hashed: a model that was trained on or replaced has others."""
    found = ((path.name, path.stat()) for path in _matching(folder, (*_MODEL_FILES, *_TOKENIZER_FILES)))
    return tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in found)


@functools.lru_cache(maxsize=64)
def _folder_identity(folder: Path, listing: tuple[object, ...]) -> dict[str, str]:
    """Hashes of weights and tokenizer; gigabytes are read once for as long as `listing` stays as it is."""

    def digest(patterns: tuple[str, ...]) -> str:
        total = xxhash.xxh3_128()
        for path in _matching(folder, patterns):
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

    with _hub_errors(model, revision):
        if constants.HF_HUB_OFFLINE:
            cached = snapshot_download(model, revision=revision, local_files_only=True, allow_patterns=["config.json"])
            return Path(cached).name
        sha = HfApi().model_info(model, revision=revision).sha
    assert sha is not None
    return sha


@contextlib.contextmanager
def _hub_errors(model: str, revision: str | None) -> Iterator[None]:
    """What the Hub's client raises, as ours: NetworkError where it cannot be reached, ModelError where it says no."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted = f"{model}@{revision}" if revision else model
    try:
        yield
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ModelError(f"{wanted}: no such model on the Hub, or not visible to you (private or gated: set HF_TOKEN)") from error
    except Exception as error:
        if _is_unreachable(error):
            what = "not in the local cache and " if isinstance(error, LocalEntryNotFoundError) else ""
            raise NetworkError(f"{wanted}: no local folder, {what}the Hub cannot be reached ({one_line(error)})") from error
        if isinstance(error, EntryNotFoundError):
            raise ModelError(f"{wanted}: no config.json there; if it is a PEFT adapter, {_MERGE}") from error
        if isinstance(error, OSError):
            raise ModelError(f"{wanted}: cannot be fetched from the Hub ({one_line(error)})") from error
        raise


def _is_unreachable(error: BaseException | None) -> bool:
    """Whether a failed connection, offline mode or a failing server is behind an error."""
    # By name: which HTTP library the Hub's client stands on has changed with its versions, and may again.
    names = {"ConnectionError", "TimeoutError", "TransportError", "LocalEntryNotFoundError"}
    while error is not None:
        if names & {base.__name__ for base in type(error).__mro__}:
            return True
        if getattr(getattr(error, "response", None), "status_code", 0) in (429, 500, 502, 503, 504):
            return True
        error = error.__cause__ or error.__context__
    return False


def load_tokenizer(spec: ModelSpec) -> "PreTrainedTokenizerBase":
    """The tokenizer alone; loaded again when the folder's files have changed.

    Raises ModelError when it has no offsets (no tokenizer.json) or no end-of-sequence token, UsageError when the template
    of `spec` is no Jinja.
    """
    return _load_tokenizer(spec, spec.digest())


@functools.lru_cache(maxsize=4)
def _load_tokenizer(spec: ModelSpec, digest: str) -> "PreTrainedTokenizerBase":
    keep_freed_memory()  # here, because scoring begins here: threads that torch already has would keep arenas of their own
    from transformers import AutoTokenizer

    where, revision = _where(spec)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unloadable(spec, error, "tokenizer cannot be loaded") from error
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"{spec.model}: its tokenizer gives no character offsets; one with a tokenizer.json is needed")
    if tokenizer.eos_token is None:
        raise ModelError(f"{spec.model}: its tokenizer has no eos_token, which SFTTrainer appends to completions; set one")
    if spec.chat_template is not None:
        tokenizer.chat_template = spec.chat_template
    _check_template(tokenizer, spec)
    return tokenizer


def _check_template(tokenizer: "PreTrainedTokenizerBase", spec: ModelSpec) -> None:
    """Compile the template once: what is no Jinja would leave every row unscored."""
    import jinja2

    if tokenizer.chat_template is None:
        return
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
    except jinja2.TemplateSyntaxError as error:
        where = f"line {error.lineno}: {one_line(error)}"
        if spec.chat_template is not None:
            raise UsageError(f"--chat-template: not a Jinja template: {where}") from error
        raise ModelError(f"{spec.model}: its chat template cannot be compiled: {where}; pass --chat-template") from error
    except Exception:  # noqa: S110  (a template may refuse this conversation; rows say for themselves whether it takes them)
        pass


def load_model(spec: ModelSpec) -> LanguageModel:
    """Load model and tokenizer: safetensors only, no remote code, evaluation mode, no gradients."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    tokenizer = load_tokenizer(spec)
    where, revision = _where(spec)
    disable_progress_bar()  # a bar per weight file, on top of ours
    placement = _placement(spec)

    def loaded(attention: str) -> Any:
        return AutoModelForCausalLM.from_pretrained(
            where,
            revision=revision,
            dtype=getattr(torch, spec.dtype),  # without it the checkpoint's own type decides (transformers 5)
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            **placement,
        )

    preferred, otherwise = ATTENTION
    try:
        try:
            model = loaded(preferred)
        except ValueError as error:
            if "attention implementation" not in str(error):
                raise
            model = loaded(otherwise)
    except (OSError, ValueError, SafetensorError) as error:
        raise _unloadable(spec, error, "cannot be loaded as a causal language model") from error
    if getattr(model, "_hf_peft_config_loaded", False):  # a Hub repository may hold an adapter beside its model
        raise ModelError(f"{spec.model}: holds a PEFT adapter; {_MERGE}")
    on_disk = [name for name, place in getattr(model, "hf_device_map", {}).items() if place == "disk"]
    if on_disk:  # every batch would read them anew
        raise ModelError(
            f"{spec.model}: does not fit into the GPUs and memory, {len(on_disk)} of its parts would lie on the disk "
            f"({on_disk[0]} ...); hold it in fewer bits (--quantize 4bit) or take a smaller model"
        )
    embeddings = model.get_input_embeddings().weight.shape[0]
    highest = max(tokenizer.get_vocab().values(), default=0)
    if highest >= embeddings:
        raise ModelError(
            f"{spec.model}: its tokenizer has token {highest}, its model only {embeddings} embeddings; they are no pair"
        )
    model.requires_grad_(False)
    if not placement:
        model.to(spec.device)
    return LanguageModel(model.eval(), tokenizer, spec)


def _placement(spec: ModelSpec) -> dict[str, Any]:
    """What has the weights quantised and spread while they are read; empty where they are read and then moved."""
    import torch
    from transformers import BitsAndBytesConfig

    if spec.device != "auto" and spec.quantize is None:
        return {}
    placement: dict[str, Any] = {"device_map": "auto" if spec.device == "auto" else {"": spec.device}}
    check_quantize(spec)
    if spec.quantize == "8bit":
        # bitsandbytes 0.50 logs a line per matrix product for inputs that are not float16.
        logging.getLogger("bitsandbytes.autograd").setLevel(logging.ERROR)
        placement["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    if spec.quantize == "4bit":
        placement["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, spec.dtype),
        )
    return placement


def maximal_length(spec: ModelSpec) -> int | None:
    """Positions that the model was made for, from its config alone; None when it does not say."""
    config = _read_config(spec)
    value = config.get("max_position_embeddings") or config.get("n_positions")
    return int(value) if isinstance(value, int) and value > 0 else None


def _read_config(spec: ModelSpec) -> dict[str, Any]:
    folder = _local_folder(spec.model)
    if folder is None:
        from huggingface_hub import hf_hub_download

        commit = _hub_commit(spec.model, spec.revision)
        with _hub_errors(spec.model, spec.revision):
            folder = Path(hf_hub_download(spec.model, "config.json", revision=commit)).parent
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{spec.model}: config.json cannot be read ({one_line(error)})") from error
    if not isinstance(config, dict):
        raise ModelError(f"{spec.model}: config.json holds no object; a folder as `save_pretrained` writes it is needed")
    return config


def _where(spec: ModelSpec) -> tuple[str, str | None]:
    """Folder, or repository with the commit that the fingerprint was taken of: the branch may move meanwhile."""
    folder = _local_folder(spec.model)
    if folder is not None:
        return os.fspath(folder), None
    return spec.model, _hub_commit(spec.model, spec.revision)


def _unloadable(spec: ModelSpec, error: Exception, what: str) -> ModelError | NetworkError:
    if _local_folder(spec.model) is None and _is_unreachable(error):
        return NetworkError(f"{spec.model}: {what}, the Hub cannot be reached ({one_line(error)})")
    return ModelError(f"{spec.model}: {what} ({one_line(error)})")


def one_line(error: Exception) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
