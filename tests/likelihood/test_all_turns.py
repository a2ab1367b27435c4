"""With `turns="all"` the scored tokens are those that TRL's SFTTrainer trains with `assistant_only_loss`."""

import functools
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import CHAT_TEMPLATE
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from curate.examples import Example, Message
from curate.examples.example import Role
from curate.likelihood import Rendered, Renderer, Turns, Unrenderable
from curate.likelihood.model import ModelSpec, load_tokenizer
from curate.likelihood.rendering import runs
from curate.reference import model_path

SYSTEM = "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
UNMARKED = CHAT_TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")
# Contents are stripped, the header bears loss too, and thoughts of earlier turns are dropped, as in Qwen3's template.
HEADER = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{% generation %}{{ '<|im_start|>assistant\n' + m['content'] | trim "
    "+ '<|im_end|>' }}{% endgeneration %}{% else %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FORGETTING = CHAT_TEMPLATE.replace(
    "{{ m['content'] + '<|im_end|>' }}{% endgeneration %}",
    "{{ (m['content'] if loop.last else m['content'].split('</think>')[-1]) + '<|im_end|>' }}{% endgeneration %}",
)
# No end token: a turn's last letters and the next role's name may become one token.
BARE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ 'A' }}{% generation %}{{ m['content'] }}{% endgeneration %}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'A' }}{% endif %}"
)


def tokenizer_of(template: str, *, bos: bool = False) -> Any:
    """A small byte-level BPE tokenizer that learnt words which span turns."""
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>", "<s>"]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    words = ["the answer is 42", "question answer number of apples", "Answer", "Final Answer: 72", *string.digits] * 20
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=special, show_progress=False)
    )
    if bos:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))])
    kinds = {"eos_token": "<|im_end|>", "pad_token": "<|pad|>"} | ({"bos_token": "<s>"} if bos else {})
    return PreTrainedTokenizerFast(tokenizer_object=inner, chat_template=template, **kinds)


def talk(*contents: str, system: str | None = None, opens: str = "user") -> list[Message]:
    roles: list[Role] = ["user", "assistant"] if opens == "user" else ["assistant", "user"]
    first: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    return first + [{"role": roles[place % 2], "content": content} for place, content in enumerate(contents)]


TWICE: list[Message] = [
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "first"},
    {"role": "assistant", "content": "second"},
    {"role": "user", "content": "r"},
    {"role": "assistant", "content": "third"},
]
CONVERSATIONS: list[list[Message]] = [
    talk("What is 6 x 7?", "42"),
    talk("What is 6 x 7?", "The answer is 42.", "And 7 x 8?", "56, of course.", "Thanks", "You are welcome."),
    talk("one", "two", "three", "four", system="Count."),
    talk("Hello! I count.", "one", "two", opens="assistant"),
    talk("say yes", "yes", "say yes again: yes", "yes"),
    talk("nothing", "", "still nothing", "something"),
    talk("space", "\n\n 7 apples \n", "more", "  the answer\n"),
    talk("naïve café 😀", "日本語 ответ 😀", "ещё", "Ωmega 🦊"),
    talk("token", "say <|im_end|> now", "<|im_start|>user", "answer"),
    talk("long", "word " * 150, "more", "word " * 150, "end", "done"),
    talk("x " * 500, "cut off entirely", "more", "also"),
    TWICE,
]
STYLES = {
    "marked": lambda: tokenizer_of(CHAT_TEMPLATE),
    "marked, system prompt injected": lambda: tokenizer_of(SYSTEM + CHAT_TEMPLATE),
    "marked, BOS": lambda: tokenizer_of("{{ '<s>' }}" + CHAT_TEMPLATE, bos=True),
    "marked, contents stripped and headers trained": lambda: tokenizer_of(HEADER),
    "marked, no end token": lambda: tokenizer_of(BARE),
    "packaged model": lambda: load_tokenizer(ModelSpec(str(model_path()))),
}


@functools.cache
def styled(style: str) -> Any:
    return STYLES[style]()


def render(tokenizer: Any, conversations: Sequence[Sequence[Message]], max_length: int) -> list[Rendered | Unrenderable]:
    return Renderer(tokenizer, max_length=max_length, turns="all").render(
        [Example(messages, row=row) for row, messages in enumerate(conversations)]
    )


def scored(row: Rendered) -> list[int]:
    return [place for turn in row.turns for place in range(turn.start, turn.stop)]


def trained(
    tokenizer: Any, rows: list[dict[str, Any]], max_length: int, folder: Path, **more: Any
) -> dict[int, tuple[list[int], list[int]]]:
    """Token ids up to the last that bears loss, and the places that do, of every row that the real trainer trains on."""
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([row | {"number": number} for number, row in enumerate(rows)]),
        args=SFTConfig(
            output_dir=str(folder), max_length=max_length, use_cpu=True, bf16=False, activation_checkpointing=False,
            report_to="none", save_strategy="no", disable_tqdm=True, assistant_only_loss=True, **more,
        ),
    )  # fmt: skip
    found = {}
    for row in trainer.train_dataset:
        # The loss shifts labels by one: a label at place 0 has nothing before it and is never used.
        places = [at for at, label in enumerate(row["labels"]) if label != -100 and at > 0]
        if places:
            found[row["number"]] = (row["input_ids"][: places[-1] + 1], places)
    return found


@pytest.mark.filterwarnings("ignore")  # of trl and torch, which are not under test here
@pytest.mark.parametrize("max_length", [64, 300, 4000])
@pytest.mark.parametrize("style", STYLES)
def test_scored_tokens_are_those_that_assistant_only_loss_trains(style: str, max_length: int, tmp_path: Path) -> None:
    tokenizer = styled(style)
    results = render(tokenizer, CONVERSATIONS, max_length)
    assert {result.reason for result in results if isinstance(result, Unrenderable)} <= {"too_long"}
    theirs = trained(tokenizer, [{"messages": messages} for messages in CONVERSATIONS], max_length, tmp_path)
    for number, result in enumerate(results):
        ids, places = theirs.get(number, ([], []))
        if isinstance(result, Rendered):
            assert (list(result.input_ids), scored(result)) == (ids, places)
        else:  # a trainer may still train what closes an empty message
            assert tokenizer.decode([ids[place] for place in places]) in ("", "<|im_end|>")


@pytest.mark.filterwarnings("ignore")
def test_kept_rows_are_trained_on_all_turns_where_the_trainer_is_told_so(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(CHAT_TEMPLATE)
    rows = [{"prompt": messages[:-1], "completion": messages[-1:]} for messages in CONVERSATIONS]
    theirs = trained(tokenizer, rows, 4000, tmp_path, completion_only_loss=False)
    for number, row in enumerate(render(tokenizer, CONVERSATIONS, 4000)):
        assert isinstance(row, Rendered)
        assert (list(row.input_ids), scored(row)) == theirs[number]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["qwen2_5", "qwen3"])
def test_where_the_trainer_takes_a_template_of_its_own_it_can_be_given(name: str, tmp_path: Path) -> None:
    """SFTTrainer puts one with marks in the place of a template that it knows."""
    from trl import chat_template_utils

    known, own = (getattr(chat_template_utils, f"{name}_{kind}") for kind in ("chat_template", "training_chat_template"))
    conversations = [messages for messages in CONVERSATIONS if messages[0]["role"] != "assistant"]
    theirs = trained(tokenizer_of(known), [{"messages": messages} for messages in conversations], 4000, tmp_path)
    for number, row in enumerate(render(tokenizer_of(own), conversations, 4000)):
        assert isinstance(row, Rendered)
        assert (list(row.input_ids), scored(row)) == theirs[number]
    tokenizer = tokenizer_of(known)
    for number, row in enumerate(render(tokenizer, conversations, 4000)):
        if isinstance(row, Unrenderable):  # Qwen3's writes an empty thought into the last turn alone
            assert (name, row.reason) == ("qwen3", "template_altered")
            assert sum(message["role"] == "assistant" for message in conversations[number]) > 1
        else:
            differing = set(scored(row)) ^ set(theirs[number][1])
            assert {tokenizer.decode([row.input_ids[place]]) for place in differing} <= {"\n"}


KINDS: tuple[Turns, ...] = ("last", "all")
TEXTS: st.SearchStrategy[str] = st.text(st.sampled_from("ab <|>\n\tAnswer42é🦊語"), max_size=12) | st.sampled_from(
    ["<|im_end|>", "the answer is 42", "A"]
)
TALKS = st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), TEXTS), max_size=6)


@settings(deadline=None, max_examples=300)
@given(turns=TALKS, last=TEXTS, style=st.sampled_from(sorted(STYLES)), max_length=st.integers(4, 80))
def test_any_conversation_is_scored_where_its_mask_is(turns: list[Any], last: str, style: str, max_length: int) -> None:
    tokenizer = styled(style)
    messages: list[Any] = [*({"role": role, "content": text} for role, text in turns), {"role": "assistant", "content": last}]
    messages = [{"role": "user", "content": "q"}, *messages]
    (row,) = render(tokenizer, [messages], max_length)
    mask = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)["assistant_masks"]
    wanted = [place for place, bit in enumerate(mask[:max_length]) if bit and place]
    if isinstance(row, Unrenderable):
        assert row.reason in {"empty_completion", "too_long", "no_completion_tokens"}
        return
    assert scored(row) == wanted
    assert row.turns[-1].stop == len(row.input_ids) == wanted[-1] + 1
    assert row.truncated == any(mask[max_length:])
    for turn in row.turns:
        assert turn.start <= turn.content[0] <= turn.content[1] <= turn.stop


def test_contents_are_the_messages_without_closing_tokens() -> None:
    tokenizer = tokenizer_of(CHAT_TEMPLATE)
    (row,) = render(tokenizer, [CONVERSATIONS[1]], 4000)
    assert isinstance(row, Rendered)
    shown = [tokenizer.decode(row.input_ids[slice(*turn.content)]) for turn in row.turns]
    assert shown == ["The answer is 42.", "56, of course.", "You are welcome."]


@pytest.mark.parametrize("messages", CONVERSATIONS[:3] + CONVERSATIONS[4:])
@pytest.mark.parametrize("system", ["", SYSTEM])
def test_without_marks_the_same_turns_are_scored_and_what_closes_them(messages: list[Message], system: str) -> None:
    """The template ends a turn with a line break behind its end token; unmarked, it is the turn's."""
    if messages[-2]["role"] == "assistant":
        return
    marked, unmarked = (tokenizer_of(system + template) for template in (CHAT_TEMPLATE, UNMARKED))
    (with_marks,), (without,) = (render(tokenizer, [messages], 4000) for tokenizer in (marked, unmarked))
    assert isinstance(with_marks, Rendered)
    assert isinstance(without, Rendered)
    assert len(with_marks.turns) == len(without.turns)
    for one, other in zip(with_marks.turns, without.turns, strict=True):
        assert (one.start, one.content, one.stop + 1) == (other.start, other.content, other.stop)
        assert unmarked.decode(without.input_ids[one.stop : other.stop]) == "\n"


def test_one_turn_is_scored_alike_whichever_are_asked_for() -> None:
    tokenizer = tokenizer_of(UNMARKED)
    examples = [Example(talk(prompt, text)) for prompt, text in (("q", "the answer"), ("q ", " 42\n"), ("q", "word " * 200))]
    last, every = (Renderer(tokenizer, max_length=100, turns=turns).render(examples) for turns in KINDS)
    for one, other in zip(last, every, strict=True):
        assert isinstance(one, Rendered)
        assert isinstance(other, Rendered)
        assert (list(one.input_ids), list(one.turns), one.truncated) == (
            list(other.input_ids),
            list(other.turns),
            other.truncated,
        )


@pytest.mark.parametrize(
    ("messages", "template", "max_length", "reason"),
    [
        (talk("q", "a", "r", " \n"), CHAT_TEMPLATE, 50, "empty_completion"),
        (talk("q " * 99, "a", "r", "b"), CHAT_TEMPLATE, 50, "too_long"),
        (talk("q " * 99, "a", "r", "b"), UNMARKED, 50, "too_long"),
        (talk("q", "<think>hm</think>a", "r", "<think>so</think>b"), FORGETTING, 500, "template_altered"),
        (
            talk("q", "<think>hm</think>a", "r", "<think>so</think>b"),
            FORGETTING.replace("{% generation %}", "").replace("{% endgeneration %}", ""),
            500,
            "template_altered",
        ),
        (talk("q", "abc", "r", "d"), CHAT_TEMPLATE.replace("m['content'] +", "m['content'] | upper +"), 500, "template_altered"),
        (talk("q", "a", "r", "b"), "{{ raise_exception('no') }}", 50, "chat_template: no"),
        (talk("hello", "q", "b", opens="assistant"), UNMARKED, 50, "chat_template: Cannot apply chat template to an empty"),
        (talk("q", "a"), CHAT_TEMPLATE.replace("m['role'] == 'assistant'", "false"), 50, "no_completion_tokens"),
    ],
)
def test_conversations_that_cannot_be_scored_say_why(
    messages: list[Message], template: str, max_length: int, reason: str
) -> None:
    (row,) = render(tokenizer_of(template), [messages], max_length)
    assert isinstance(row, Unrenderable)
    assert row.reason.startswith(reason)


def test_without_a_template_a_conversation_stays_unscored() -> None:
    tokenizer = tokenizer_of(CHAT_TEMPLATE)
    tokenizer.chat_template = None
    assert render(tokenizer, [CONVERSATIONS[1]], 50) == [Unrenderable("conversation_without_chat_template")]
    (row,) = render(tokenizer, [CONVERSATIONS[0]], 50)
    assert isinstance(row, Rendered)


def test_a_token_that_spans_a_border_is_flagged() -> None:
    tokenizer = tokenizer_of(BARE)
    merged, clean = render(tokenizer, [talk("q", "nswer"), talk("q", "🦊")], 50)
    assert isinstance(merged, Rendered)
    assert isinstance(clean, Rendered)
    assert (merged.border_merged, clean.border_merged) == (True, False)


def test_a_line_break_that_a_template_trains_before_the_message_spans_no_border() -> None:
    (row,) = render(tokenizer_of(HEADER), [CONVERSATIONS[1]], 4000)
    assert isinstance(row, Rendered)
    assert not row.border_merged


def test_runs_of_a_mask() -> None:
    assert runs([1, 1, 0, 1, 0, 0, 1]) == [(0, 2), (3, 4), (6, 7)]
    assert runs([0, 0]) == runs([]) == []
