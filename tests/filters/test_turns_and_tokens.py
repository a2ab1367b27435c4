"""Two views of one forward pass: every turn of a conversation, and every token."""

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workshop import curate as run_command
from workshop import recipe_file, write_rows

import curate
from curate.annotations import annotate, load_annotations
from curate.correlation import correlate
from curate.errors import RecipeError, UsageError
from curate.examples import Example, Message, load_examples
from curate.filters import (
    Detectors,
    Filter,
    InstructionFollowingDifficulty,
    Likelihood,
    Perplexity,
    Scores,
    SelfAligned,
    TokenNll,
    Turns,
    Unscored,
    build_filter,
)
from curate.filters import likelihood as passes
from curate.filters.base import BackOff
from curate.filters.model_settings import ModelSettings
from curate.likelihood import OutOfMemory, Rendered, TokenScores, load_engine
from curate.recipes import load_recipe
from curate.selection.frame import Frame


def talk(*contents: str) -> list[Message]:
    return [{"role": "assistant" if place % 2 else "user", "content": text} for place, text in enumerate(contents)]


TALKS = [
    talk("What is 2 + 2?", "The answer is four."),
    talk("What is 2 + 2?", "The answer is four.", "Sure?", "yes", "Really?", "One, two, three and four. 🦊"),
    talk("Hello", "", "Anyone?", "yes or no"),
    talk("long", "word " * 40, "more", "word " * 150, "end", "done"),
    talk("q", " ", "r", " "),
]
EXAMPLES = [Example(messages, row=row) for row, messages in enumerate(TALKS)]


@pytest.fixture(autouse=True)
def _no_pass_is_remembered() -> Iterator[None]:
    passes._PASSES.clear()
    yield
    passes._PASSES.clear()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {"messages": [*messages[:-1], {**messages[-1], "content": f"{messages[-1]['content']} {n}"}]}
        for n in range(4)
        for messages in TALKS
    ]
    return write_rows(tmp_path / "data.jsonl", rows)


def reference(filter_: Filter, example: Example, folder: Path) -> list[list[float]]:
    """Losses of every token of every turn's content, in float64, by the stock model."""
    import torch
    from transformers import AutoModelForCausalLM

    assert isinstance(filter_, ModelSettings)
    (row,) = filter_.rendered([example], filter_.renderer())
    assert isinstance(row, Rendered)
    model = AutoModelForCausalLM.from_pretrained(folder).double().eval()
    with torch.inference_mode():
        logp = model(torch.tensor([list(row.input_ids)])).logits[0].log_softmax(-1)
    nll = [-float(logp[place - 1, row.input_ids[place]]) for place in range(1, len(row.input_ids))]
    return [nll[turn.content[0] - 1 : turn.content[1] - 1] for turn in row.turns]


# turns


def test_every_turns_mean_is_that_of_the_stock_model(tiny_model_dir: Path) -> None:
    one = Turns(model=str(tiny_model_dir))
    for example, found in zip(EXAMPLES[:3], one.score_batch(EXAMPLES[:3]), strict=True):
        assert not isinstance(found, Unscored)
        parts = reference(one, example, tiny_model_dir)
        means = [math.fsum(part) / len(part) if part else None for part in parts]
        known = [mean for mean in means if mean is not None]
        everything = list(itertools.chain(*parts))
        assert [mean for mean in found["turn_nll"] if mean is not None] == pytest.approx(known, rel=1e-5)  # type: ignore[union-attr]
        assert [mean is None for mean in found["turn_nll"]] == [mean is None for mean in means]  # type: ignore[union-attr]
        assert found["turn_tokens"] == [len(part) for part in parts]
        assert found["count"] == len(parts)
        assert (found["worst_nll"], found["best_nll"]) == pytest.approx((max(known), min(known)), rel=1e-5)
        assert found["last_nll"] == pytest.approx(means[-1], rel=1e-5)
        assert found["content_nll"] == pytest.approx(math.fsum(everything) / len(everything), rel=1e-5)
        assert found["content_tokens"] == len(everything)


def test_an_empty_message_is_a_turn_without_a_mean(tiny_model_dir: Path) -> None:
    (found,) = Turns(model=str(tiny_model_dir)).score_batch([EXAMPLES[2]])
    assert not isinstance(found, Unscored)
    assert found["count"] == 2
    assert found["turn_tokens"][0] == 0  # type: ignore[index]
    assert found["turn_nll"][0] is None  # type: ignore[index]


def test_turns_that_do_not_fit_drop_out(tiny_model_dir: Path) -> None:
    (found,) = Turns(model=str(tiny_model_dir), max_length=256).score_batch([EXAMPLES[3]])
    (whole,) = Turns(model=str(tiny_model_dir), max_length=512).score_batch([EXAMPLES[3]])
    assert not isinstance(found, Unscored)
    assert not isinstance(whole, Unscored)
    assert (found["truncated"], found["count"]) == (True, 1 + (found["tokens"] > 200))  # type: ignore[operator]
    assert found["turn_nll"][0] == pytest.approx(whole["turn_nll"][0], rel=1e-5)  # type: ignore[index]


def test_sums_over_all_turns_are_what_the_filter_tells_by_turn(tiny_model_dir: Path) -> None:
    every = Turns(model=str(tiny_model_dir)).score_batch(EXAMPLES)
    sums = Likelihood(model=str(tiny_model_dir), turns="all").score_batch(EXAMPLES)
    for one, other in zip(every, sums, strict=True):
        if isinstance(one, Unscored) or isinstance(other, Unscored):
            assert one == other == Unscored("empty_completion")
            continue
        assert one["tokens"] == other["tokens"]
        assert one["nll"] == passes.mean_of(other, "nll", "tokens")
        assert one["content_nll"] == passes.mean_of(other, "content_nll", "content_tokens")


@pytest.mark.parametrize("kind", [Likelihood, TokenNll])
def test_fingerprints_change_with_all_turns_and_only_then(kind: type[Filter], tiny_model_dir: Path) -> None:
    plain, last, every = (
        kind.model_validate({"model": str(tiny_model_dir)} | more).fingerprint()
        for more in ({}, {"turns": "last"}, {"turns": "all"})
    )
    assert plain == last
    assert "turns" not in plain
    assert "turns" not in plain["parameters"]
    assert every == plain | {"turns": "all"}


@pytest.mark.parametrize(
    ("kind", "more", "words"),
    [
        (Likelihood, {"view": "unconditional"}, "has no unconditional view"),
        (Perplexity, {"unconditional": True}, "has no unconditional view"),
        (InstructionFollowingDifficulty, {}, "has no unconditional view"),
        (Detectors, {}, "judge one text"),
        (SelfAligned, {"own": "human"}, "demonstrations"),
    ],
)
def test_views_of_one_answer_refuse_all_turns(kind: type[Filter], more: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=f"turns: all .*{words}.*leave it at `last`"):
        build_filter(kind.name, {"model": "m", "turns": "all"} | more, where="recipe")
    build_filter(kind.name, {"model": "m", "turns": "last"} | more, where="recipe")


def test_markup_is_stripped_from_every_turn_that_is_scored(tiny_model_dir: Path) -> None:
    marked = Example(talk("a <<1=1>>", "two <<1+1=2>>2", "b", "four <<2+2=4>>4"))
    plain = Example(talk("a <<1=1>>", "two 2", "b", "four 4"))
    stripped = Turns(model=str(tiny_model_dir), normalise=("calculator_marks",))
    assert stripped.score(marked) == Turns(model=str(tiny_model_dir)).score(plain)


# token_nll


@pytest.mark.parametrize("turns", ["last", "all"])
def test_every_tokens_loss_is_stored_in_order(turns: Any, tiny_model_dir: Path) -> None:
    one, sums = (kind(model=str(tiny_model_dir), turns=turns) for kind in (TokenNll, Likelihood))
    for example, found, total in zip(EXAMPLES, one.score_batch(EXAMPLES), sums.score_batch(EXAMPLES), strict=True):
        if isinstance(found, Unscored):
            assert found == total
            continue
        assert not isinstance(total, Unscored)
        assert len(found["nll"]) == found["tokens"] == total["tokens"]  # type: ignore[arg-type]
        assert math.fsum(found["nll"]) == pytest.approx(total["nll"], rel=1e-3)  # type: ignore[arg-type]
        if found["content_first"] is not None:
            content = found["nll"][found["content_first"] : found["content_end"]]  # type: ignore[index]
            (*_, wanted) = reference(one, example, tiny_model_dir)
            assert content == pytest.approx(wanted, rel=1e-3, abs=1e-5)
        else:
            assert turns == "all"


def test_a_loss_that_float16_cannot_hold_is_its_largest_number() -> None:
    import torch

    from curate.likelihood.engine import _scores

    statistics = torch.tensor([[1e9, 0.0, 0.0, 0.0], [0.25, 0.0, 0.0, 0.0]], dtype=torch.float64)
    found = _scores(Rendered.whole([1, 2, 3], 1), statistics)
    assert isinstance(found, TokenScores)
    assert found.nll.tolist() == [65504.0, 0.25]
    assert found.sums.nll == 1e9 + 0.25


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_sums_of_turns_add_up(lengths: list[int], random: Any) -> None:
    import torch

    from curate.likelihood import Turn
    from curate.likelihood.engine import _scores

    turns, place = [], 0
    for length in lengths:
        start = place + random.randint(1, 4)
        first = start + random.randint(0, length)
        turns.append(Turn(start, start + length, (first, random.randint(first, start + length))))
        place = start + length
    per_token = torch.rand(sum(lengths), 4, dtype=torch.float64)
    found = _scores(Rendered(list(range(place)), turns), per_token)
    assert isinstance(found, TokenScores)
    assert sum(turn.tokens for turn in found.turns) == found.sums.tokens
    assert math.fsum(turn.nll for turn in found.turns) == pytest.approx(found.sums.nll)
    assert sum(turn.content_tokens for turn in found.turns) == found.sums.content_tokens
    assert math.fsum(turn.content_nll for turn in found.turns) == pytest.approx(found.sums.content_nll)


# One pass


class Passes:
    """Counts what the body of a model reads."""

    def __init__(self, filter_: Filter) -> None:
        assert isinstance(filter_, passes.ForwardPass)
        self.tokens = 0
        self._hook = load_engine(filter_.spec)._body.register_forward_hook(self._count, with_kwargs=True)

    def _count(self, _: Any, __: Any, named: dict[str, Any], ___: Any) -> None:
        self.tokens += named["input_ids"].numel()

    def __enter__(self) -> "Passes":
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


def stored(out: Path) -> dict[str, bytes]:
    """Bytes of all annotations, by filter and part."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.glob("annotations/*/part-*.parquet"))}


@pytest.mark.parametrize("turns", ["last", "all"])
def test_filters_that_see_the_same_rows_share_one_pass(turns: Any, tiny_model_dir: Path, data: Path, tmp_path: Path) -> None:
    settings_ = {"model": str(tiny_model_dir), "turns": turns}
    filters: list[Filter] = [Perplexity.model_validate(settings_), TokenNll.model_validate(settings_)]
    filters += [Turns(model=str(tiny_model_dir))] if turns == "all" else []
    with Passes(Likelihood.model_validate(settings_)) as alone:
        annotate(load_examples(data), filters[:1], tmp_path / "alone", shard_rows=7)
    passes._PASSES.clear()
    with Passes(Likelihood.model_validate(settings_)) as together:
        annotate(load_examples(data), filters, tmp_path / "together", shard_rows=7)
    assert together.tokens == alone.tokens > 0


def test_what_is_stored_does_not_depend_on_who_made_the_pass(tiny_model_dir: Path, data: Path, tmp_path: Path) -> None:
    """Also of a run that goes on after an interruption, where one of the filters was ahead."""
    filters = [
        kind.model_validate({"model": str(tiny_model_dir), "turns": "all", "batch_tokens": 300})
        for kind in (Likelihood, TokenNll, Turns)
    ]
    annotate(load_examples(data), filters, tmp_path / "together", shard_rows=7)
    for number, one in enumerate(filters):
        passes._PASSES.clear()
        annotate(load_examples(data), [one], tmp_path / str(number), shard_rows=7)
    apart = {name: found for number in range(3) for name, found in stored(tmp_path / str(number)).items()}
    assert apart == stored(tmp_path / "together")
    torn = tmp_path / "together"
    for path in (*torn.glob("annotations/turns-*/*00001*"), *torn.glob("annotations/turns-*/MANIFEST.json")):
        path.unlink()
    passes._PASSES.clear()
    annotate(load_examples(data), filters, torn, shard_rows=7)
    assert apart == stored(torn)


def test_other_rows_or_another_budget_are_another_pass(tiny_model_dir: Path) -> None:
    one = Likelihood(model=str(tiny_model_dir), batch_tokens=100)
    with Passes(one) as counted:
        one.score_batch(EXAMPLES)
        first = counted.tokens
        TokenNll(model=str(tiny_model_dir), batch_tokens=100).score_batch(EXAMPLES)
        assert counted.tokens == first
        TokenNll(model=str(tiny_model_dir), batch_tokens=50).score_batch(EXAMPLES)
        assert counted.tokens > first
        before = counted.tokens
        TokenNll(model=str(tiny_model_dir), batch_tokens=100).score_batch(EXAMPLES[:2])
        assert counted.tokens > before


def test_few_passes_are_held(tiny_model_dir: Path) -> None:
    one = Likelihood(model=str(tiny_model_dir))
    for count in range(1, 4):
        for budget in (50, 100, 200):
            one.model_copy(update={"batch_tokens": budget}).score_batch(EXAMPLES[:count])
    assert len(passes._PASSES) == passes.MOST_PASSES


def test_a_pass_that_did_not_fit_is_not_held(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = TokenNll(model=str(tiny_model_dir), batch_tokens=100)

    def full(*_: object, **__: object) -> None:
        raise OutOfMemory

    monkeypatch.setattr(type(one.engine()), "score_tokens", full)
    with pytest.raises(BackOff):
        one.score_batch(EXAMPLES)
    assert not passes._PASSES


# Lists in and around a run


class Lists(Filter):
    """Two lists and a number."""

    version: ClassVar[int] = 1
    outputs: ClassVar = {"all": "float64[]", "places": "int64[]", "half": "float16[]", "x": "float64"}

    def score(self, example: Example) -> Scores | Unscored:
        if example.row % 5 == 3:
            return Unscored("no list")
        return {
            "all": [0.1, None, float(example.row)],
            "places": [example.row],
            "half": [0.5] * example.row,
            "x": float(example.row),
        }


@pytest.fixture
def lists(monkeypatch: pytest.MonkeyPatch) -> type[Filter]:
    from curate.filters import base

    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    return base.register("lists")(Lists)


def test_lists_are_stored_as_declared_and_stream_as_they_are_stored(lists: type[Filter], data: Path, tmp_path: Path) -> None:
    annotate(load_examples(data), [lists()], tmp_path / "out", shard_rows=7)
    (store,) = load_annotations(tmp_path / "out").stores
    kind = store.read(0, ["lists"]).schema.field("lists").type
    assert [kind.field(name).type.value_type for name in ("all", "places", "half")] == [pa.float64(), pa.int64(), pa.float16()]
    held = [struct for shard in store.shards for struct in store.structs(shard.index)]
    assert held[2] == {"all": [0.1, None, 2.0], "places": [2], "half": [0.5, 0.5], "x": 2.0, "unscored": None}
    assert held[3] == {"all": None, "places": None, "half": None, "x": None, "unscored": "no list"}
    stream: Any = annotate(load_examples(data), [lists()])
    assert [row["lists"] for row in stream] == held


def test_lists_stay_out_of_ledger_and_correlation(lists: type[Filter], data: Path, tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path / "higher.yaml", ["keep: {field: lists.x, highest: 50%}"], filters="{lists: {}}")
    out = curate.run(recipe, data, out=tmp_path / "out").out
    ledger = pq.read_schema(out / "selection" / "ledger.parquet")
    assert [field.name for field in ledger.field("lists").type] == ["x", "unscored"]
    assert {field.name for field in correlate(out).fields} == {"characters", "lists.x"}
    assert run_command("verify", out).code == 0
    with pytest.raises(UsageError, match="no such score"):
        correlate(out, fields=["lists.all"])


@pytest.mark.parametrize(
    "step",
    ["keep: {field: lists.all, highest: 50%}", "drop: {field: lists.half, above: 1}", "drop: {field: lists.places, is: true}"],
)
def test_no_step_decides_by_a_list(step: str, lists: type[Filter], tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path / "wrong.yaml", [step], filters="{lists: {}}")
    with pytest.raises(RecipeError, match=r"which is a list \((float64|float16|int64)\[\]\).*one value per row, lists gives x"):
        load_recipe(str(recipe))


def test_a_recipe_ranks_conversations_by_their_worst_turn(tiny_model_dir: Path, data: Path, tmp_path: Path) -> None:
    filters = "{turns: {model: target}, token_nll: {model: target}, perplexity: {model: target}}"
    recipe = recipe_file(tmp_path / "worst.yaml", ["keep: {field: turns.worst_nll, lowest: 50%}"], filters=filters)
    out = curate.run(recipe, data, out=tmp_path / "out", model=str(tiny_model_dir)).out
    annotations = load_annotations(out)
    stores = {store.filter_name: store for store in annotations.stores}
    worst = Frame(annotations.rows, stores).column("turns.worst_nll")
    kept = json.loads((out / "selection" / "selection.json").read_text())["kept_rows"]
    assert kept == (int(worst.valid.sum()) + 1) // 2 + int((~worst.valid).sum())
    nll = [value for shard in stores["token_nll"].shards for value in stores["token_nll"].structs(shard.index)]
    assert all((one["nll"] is None) == (one["unscored"] is not None) for one in nll)
