"""What many tests need and is slow to make: small models with their tokenizers, built once, without a download."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ["COLUMNS"] = "100"  # tables are laid out for the terminal, and where tests run there may be any or none

import pytest

if TYPE_CHECKING:
    from fake_hub import HubProcess
    from hub_publications import Pusher

HUB_TOKEN = "hf_ThisTokenMustNotBeShown0123456789"
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXTS = ["The answer to the question is four. What is 2 + 2? One, two, three and yes or no."] * 20


def save_tiny_model(folder: Path, *, chat_template: str | None, eos: str | None = "<|im_end|>", seed: int = 0) -> Path:
    """A random Llama of two layers with a byte-level tokenizer, as `save_pretrained` writes them."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=special, show_progress=False)
    bpe.train_from_iterator(TEXTS, trainer)
    facts: dict[str, Any] = {"pad_token": "<|pad|>", "chat_template": chat_template, "model_max_length": 512}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **facts, **({"eos_token": eos} if eos else {}))
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model whose tokenizer has a chat template."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "chat", chat_template=CHAT_TEMPLATE)


@pytest.fixture(scope="session")
def plain_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model without a chat template: rows are concatenated."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "plain", chat_template=None)


@pytest.fixture(scope="session")
def model_folder(tiny_model_dir: Path) -> Path:
    """Any model, for tests that do not care which."""
    return tiny_model_dir


@pytest.fixture(scope="session")
def toxicity_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random classifier in the layout of Detoxify's checkpoints, config and tokenizer beside it; the published ones are 438 MB."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    folder = tmp_path_factory.mktemp("toxicity")
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(words), num_labels=3, **sizes)
    config.save_pretrained(folder)
    arch = {"num_classes": 3, "model_type": "bert-base-uncased", "model_name": "BertForSequenceClassification"}
    facts = {
        "arch": {"args": {**arch, "tokenizer_name": "BertTokenizer"}},
        "dataset": {"args": {"classes": ["toxic", "severe_toxic", "insult"]}},
    }
    weights = BertForSequenceClassification(config).state_dict()
    torch.save({"state_dict": weights, "config": facts}, folder / "toxic.ckpt")
    return folder / "toxic.ckpt"


@pytest.fixture(scope="session")
def detector_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random classifier with the labels Real and Fake."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    folder = tmp_path_factory.mktemp("detector")
    letters = "abcdefghijklmnopqrstuvwxyz"
    (folder / "words").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{x}" for x in letters)])
    )
    tokenizer = BertTokenizer(vocab_file=str(folder / "words"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    labels = {"id2label": {0: "Real", 1: "Fake"}, "label2id": {"Real": 0, "Fake": 1}}
    BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **labels, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def _hub() -> "Iterator[HubProcess]":
    from fake_hub import HubProcess

    hub = HubProcess()
    yield hub
    hub.close()


@pytest.fixture(scope="session")
def _pusher(_hub: "HubProcess", tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Pusher]":
    from hub_publications import Pusher

    pusher = Pusher(_hub, tmp_path_factory.mktemp("home"))
    yield pusher
    pusher.close()


@pytest.fixture
def hub(_hub: "HubProcess") -> "HubProcess":
    """An empty Hub in a process of its own that knows two tokens, of which one may write."""
    _hub.reset()
    _hub.set(tokens={HUB_TOKEN: "write", "hf_reads": "read"})
    return _hub


@pytest.fixture
def push(hub: "HubProcess", _pusher: "Pusher") -> "Pusher":
    """Pushes folders to that Hub from a process of its own, started once: imports take seconds."""
    return _pusher
