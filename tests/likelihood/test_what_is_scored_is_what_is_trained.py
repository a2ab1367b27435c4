"""The scored tokens equal, row by row, the tokens that TRL's SFTTrainer puts loss on."""

import gzip
import json
import string
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from curate.examples import Example
from curate.likelihood import Rendered, Renderer, Unrenderable
from curate.reference import model_path, sample_path

SHARED = Path(__file__).parents[2].parent / "shared"
LOOP = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SYSTEM = "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}" + LOOP
# The prompt alone ends with an empty thought that the whole conversation does not have, and contents are stripped.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}{% endif %}"
)
NO_END = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"


def _tokenizer(*, template: str | None, bos: bool = False) -> Any:
    """A small byte-level BPE tokenizer that learnt words which span prompt and completion."""
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>", "<s>"]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words = ["the answer is 42", "question answer number of apples", "answer", "Final Answer: 72", *string.digits] * 20
    inner.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=special, show_progress=False)
    )
    if bos:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))])
    eos = "<|im_end|>" if template else "<|endoftext|>"
    kinds = {"eos_token": eos, "pad_token": "<|pad|>"} | ({"bos_token": "<s>"} if bos else {})
    return PreTrainedTokenizerFast(tokenizer_object=inner, chat_template=template, **kinds)


def _shared_tokenizer(name: str, template: str | None = None) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = SHARED / "models" / name
    if not folder.is_dir():
        pytest.skip(f"needs ../shared/models/{name}")
    if (folder / "tokenizer_config.json").is_file():
        return AutoTokenizer.from_pretrained(folder)
    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=template
    )


def _packaged() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_path())


STYLES = {
    "packaged model": _packaged,
    "chat template": lambda: _tokenizer(template=LOOP),
    "chat template, system prompt injected": lambda: _tokenizer(template=SYSTEM),
    "chat template, generation prompt differs": lambda: _tokenizer(template=THINKING),
    "chat template without end token": lambda: _tokenizer(template=NO_END),
    "chat template and BOS": lambda: _tokenizer(template="{{ '<s>' }}" + LOOP, bos=True),
    "plain": lambda: _tokenizer(template=None),
    "plain with BOS": lambda: _tokenizer(template=None, bos=True),
    "stories260K: SentencePiece, BOS": lambda: _shared_tokenizer("stories260K"),
    "SmolLM2, plain": lambda: _shared_tokenizer("smollm2-tokenizer"),
    "SmolLM2, ChatML": lambda: _shared_tokenizer("smollm2-tokenizer", LOOP),
}

HARD = [
    ("question", "answer"),
    ("the ans", "wer is 42"),
    ("the answer ", "is 42"),
    ("number of apples\n", "\n\n 7 apples \n"),
    ("What is 6 x 7?", "42"),
    ("repeat: 42", "42"),
    ("say it", "<|im_end|> is a token"),
    ("naïve café 😀", "日本語 ответ 😀"),
    ("x" * 3000, "cut off entirely"),
    ("short", "y " * 3000),
    ("ends with eos", "answer<|endoftext|>"),
]


def _rows() -> Iterator[tuple[str, str]]:
    yield from HARD
    with sample_path().open(encoding="utf-8") as lines:
        for line in islice(lines, 40):
            row = json.loads(line)
            yield row["prompt"], row["response"]
    for task in ("gsm8k", "ecqa", "humaneval"):
        path = SHARED / "data" / "familiarity" / task / "train.jsonl.gz"
        if path.is_file():
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                for line in islice(lines, 0, 900, 30):
                    row = json.loads(line)
                    yield row["prompt"], row["response"]


def _trained(tokenizer: Any, rows: list[tuple[str, str]], max_length: int, folder: Path) -> list[tuple[list[int], list[int]]]:
    """Token ids and the places that bear loss, of every row that the real trainer keeps."""
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    chat = tokenizer.chat_template is not None
    data = [
        {"prompt": [{"role": "user", "content": p}], "completion": [{"role": "assistant", "content": c}]}
        if chat
        else {"prompt": p, "completion": c}
        for p, c in rows
    ]
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(data),
        args=SFTConfig(
            output_dir=str(folder), max_length=max_length, use_cpu=True, bf16=False, activation_checkpointing=False,
            report_to="none", save_strategy="no", disable_tqdm=True,
        ),
    )  # fmt: skip
    kept = []
    for row in trainer.train_dataset:
        # The loss shifts labels by one: a label at place 0 has nothing before it and is never used.
        kept.append((row["input_ids"], [at for at, label in enumerate(row["labels"]) if label != -100 and at > 0]))
    return kept


@pytest.mark.filterwarnings("ignore")  # of trl and torch, which are not under test here
@pytest.mark.parametrize("style", STYLES)
def test_scored_tokens_are_the_tokens_that_sft_trainer_trains(style: str, tmp_path: Path) -> None:
    tokenizer = STYLES[style]()  # type: ignore[no-untyped-call]
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    rows, max_length = list(_rows()), 700
    ours = Renderer(tokenizer, max_length=max_length).render(
        [Example([{"role": "user", "content": p}, {"role": "assistant", "content": c}], row=n) for n, (p, c) in enumerate(rows)]
    )
    scored = [result for result in ours if isinstance(result, Rendered)]
    reasons = [result.reason for result in ours if isinstance(result, Unrenderable)]
    assert set(reasons) <= {"too_long"}
    trained = _trained(tokenizer, rows, max_length, tmp_path)
    assert len(trained) == len(scored)
    for mine, (ids, places) in zip(scored, trained, strict=True):
        assert list(mine.input_ids) == ids
        assert list(range(mine.start, len(mine.input_ids))) == places


def test_a_token_that_spans_the_border_is_flagged() -> None:
    renderer = Renderer(_tokenizer(template=None), max_length=100)
    (merged, clean) = renderer.render(
        [
            Example([{"role": "user", "content": p}, {"role": "assistant", "content": c}])
            for p, c in (("the ans", "wer"), ("a", " 42"))
        ]
    )
    assert isinstance(merged, Rendered)
    assert merged.border_merged
    assert isinstance(clean, Rendered)
    assert not clean.border_merged


@pytest.mark.parametrize("template", [LOOP, SYSTEM, THINKING, NO_END, None])
def test_content_tokens_hold_the_completion_and_no_closing_token(template: str | None) -> None:
    tokenizer = _tokenizer(template=template)
    text = "the answer is 42"
    (row,) = Renderer(tokenizer, max_length=100).render(
        [Example([{"role": "user", "content": "number of apples?"}, {"role": "assistant", "content": text}])]
    )
    assert isinstance(row, Rendered)
    first, end = row.turns[0].content
    assert tokenizer.decode(row.input_ids[first:end]).strip() == text
    closing = tokenizer.decode(row.input_ids[end:])
    assert closing.strip() in {"<|im_end|>", "<|endoftext|>", ""}


@pytest.mark.parametrize(
    ("messages", "template", "max_length", "reason"),
    [
        ([("user", "q"), ("assistant", " \n")], None, 50, "empty_completion"),
        ([("user", "q " * 99), ("assistant", "a")], None, 50, "too_long"),
        ([("system", "s"), ("user", "q"), ("assistant", "a")], None, 50, "conversation_without_chat_template"),
        ([("user", "q"), ("assistant", "abc")], "{{ messages[0]['content'] | upper }} nothing", 50, "template_altered"),
        (
            [("user", "q"), ("assistant", "a")],
            "{{ raise_exception('roles must alternate') }}",
            50,
            "chat_template: roles must alternate",
        ),
    ],
)
def test_rows_that_cannot_be_scored_say_why(messages: list[Any], template: str | None, max_length: int, reason: str) -> None:
    example = Example([{"role": role, "content": content} for role, content in messages])
    (row,) = Renderer(_tokenizer(template=template), max_length=max_length).render([example])
    assert row == Unrenderable(reason)


def test_the_documentation_counts_these_styles() -> None:
    page = Path(__file__).parents[2] / "docs" / "how-it-works.md"
    if not page.is_file():
        pytest.skip("docs/how-it-works.md is not here: the suite runs against an installed package")
    assert len(STYLES) == 11
    assert "for eleven tokenizer and template styles" in page.read_text("utf-8")
