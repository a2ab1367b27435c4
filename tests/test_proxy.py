"""`quote --proxy`: which rows are compared, how agreement is measured, and what is said of it."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import CHAT_TEMPLATE, save_tiny_model
from workshop import curate as run_command
from workshop import recipe_file, record, some_rows, write_rows

from curate import pipeline, progress
from curate.annotations import Annotations, annotate
from curate.errors import InputError, ModelError, RecipeError, UsageError
from curate.examples import load_examples, stable_hash
from curate.filters import Likelihood
from curate.learning.judging import Estimate
from curate.likelihood import Rendered
from curate.proxy import Comparison, RankAgreement, Scoring, compare
from curate.proxy.agreement import agreement, overlap, within_groups
from curate.proxy.comparing import advice
from curate.proxy.sampling import MOST_PER_PROMPT, sample
from curate.recipes import Recipe, load_recipe
from curate.reference import model_path, sample_path
from curate.selection.frame import Frame
from curate.trials import Request, prepare

TARGET = {"model": str(model_path())}
BEST = {"best_of": {"field": "perplexity.content_nll", "lowest": 1}}


def recipe(*steps: Any, **filters: Any) -> Recipe:
    """Ranks by perplexity unless filters say otherwise."""
    return Recipe(name="x", filters=filters or {"perplexity": {"model": "target"}}, steps=steps, unscored="keep")


# Which rows


def prompts(examples: Any) -> Counter[str]:
    return Counter(example.prompt_key for example in examples)


def test_the_sample_is_the_prompts_with_the_lowest_hashes_each_whole() -> None:
    rows = [record(f"q{n % 90}", f"a{n}") for n in range(300)]  # 30 prompts of four, 60 of three, scattered
    found = sample(load_examples(rows), 50, seed=3)
    every = prompts(load_examples(rows))
    expected: Counter[str] = Counter()
    for key in sorted(every, key=lambda key: stable_hash([3, key])):
        if expected.total() < 50:
            expected[key] = every[key]
    assert prompts(found.examples) == expected
    assert (found.rows, found.sampled, found.prompts, found.cut_prompts) == (300, expected.total(), len(expected), 0)


def test_the_order_of_the_data_moves_no_row_into_the_sample() -> None:
    rows = [record(f"q{n % 40}", f"a{n}") for n in range(200)]
    one, other = (sample(load_examples(given), 30).examples for given in (rows, rows[::-1]))
    assert {example.completion for example in one} == {example.completion for example in other}


def test_sampled_rows_stand_in_the_order_of_the_data_and_keep_their_columns() -> None:
    rows = [record(f"q{n % 10}", f"a{n}", id=f"r{n}", place=n) for n in range(100)]
    found = list(sample(load_examples(rows), 30).examples)
    places = [example.extra["place"] for example in found]
    assert places == sorted(places)
    assert [example.row for example in found] == list(range(len(found)))
    assert [example.id for example in found] == [f"r{place}" for place in places]


def test_a_prompt_that_all_rows_share_is_cut() -> None:
    found = sample(load_examples([record("q", f"a{n}") for n in range(500)]), 100)
    assert (found.sampled, found.prompts, found.cut_prompts, found.rows) == (MOST_PER_PROMPT, 1, 1, 500)


def test_refused_rows_are_counted_and_data_without_a_row_is_an_input_error() -> None:
    assert sample(load_examples([record("", "x"), record("q", "a")]), 20).refused == 1
    with pytest.raises(InputError, match="no row to score; 2 are refused"):
        sample(load_examples([record("", "x")] * 2), 20)


# Agreement


def test_in_one_group_it_is_scipys_spearman_with_ties() -> None:
    from scipy import stats

    generator = np.random.default_rng(0)
    left = generator.integers(0, 9, 200).astype(np.float64)
    right = left + generator.integers(0, 30, 200)
    assert within_groups(left, right, np.zeros(200, dtype=np.int64)) == pytest.approx(stats.spearmanr(left, right).statistic)


def test_over_groups_it_is_the_mean_of_scipys_weighted_by_rows_less_one() -> None:
    from scipy import stats

    generator = np.random.default_rng(1)
    groups = np.repeat(np.arange(20), generator.integers(2, 9, 20))
    left = generator.normal(size=len(groups)) + groups  # what groups differ by is no agreement inside them
    right = generator.normal(size=len(groups)) + left
    order = generator.permutation(len(groups))
    each = [stats.spearmanr(left[groups == g], right[groups == g]).statistic for g in range(20)]
    expected = np.average(each, weights=np.bincount(groups) - 1)
    assert within_groups(left[order], right[order], groups[order]) == pytest.approx(expected)


def test_groups_that_one_model_ties_say_nothing() -> None:
    groups = np.array([0, 0, 1, 1])
    left, right = np.array([1.0, 2.0, 3.0, 3.0 + 1e-9]), np.array([1.0, 2.0, 4.0, 3.0])
    assert within_groups(left, right, groups) == 1.0
    assert within_groups(left[2:], right[2:], groups[2:]) is None
    assert within_groups(left[:0], right[:0], groups[:0]) is None


def test_a_prompt_that_is_drawn_twice_counts_as_two_groups() -> None:
    prompt = np.repeat(np.arange(30), 2)
    left, right = np.tile([1.0, 2.0], 30), np.tile([1.0, 2.0], 30)
    right[:20] = right[:20][::-1]  # ten of thirty groups are reversed
    found = agreement(left, right, prompt, prompt)
    assert found
    assert found.value == pytest.approx(1 / 3)
    # A mean of 30 draws of +1 or -1 with this mean.
    error = np.sqrt((1 - 1 / 9) / 30)
    assert (found.low, found.high) == pytest.approx((1 / 3 - 1.96 * error, 1 / 3 + 1.96 * error), abs=0.08)


def test_intervals_widen_with_the_rows_of_a_prompt_that_go_together() -> None:
    generator = np.random.default_rng(0)
    prompt = np.repeat(np.arange(60), 5)
    shared = np.c_[generator.normal(size=60), generator.normal(size=60)][prompt]
    left, right = (shared + 0.1 * generator.normal(size=shared.shape)).T
    by_prompt, by_row = (agreement(left, right, np.zeros_like(prompt), each) for each in (prompt, np.arange(300)))
    assert by_prompt
    assert by_row
    assert by_prompt.low < 0 < by_prompt.high
    assert by_prompt.high - by_prompt.low > 1.7 * (by_row.high - by_row.low)


def test_overlap_is_the_share_of_the_first_ones_rows_with_a_binomial_interval() -> None:
    kept = np.arange(400) < 200
    also = (np.arange(400) < 150) | (np.arange(400) > 300)
    found = overlap(kept, also, np.arange(400))
    assert found.value == 0.75
    error = np.sqrt(0.75 * 0.25 / 200)
    assert (found.low, found.high) == pytest.approx((0.75 - 1.96 * error, 0.75 + 1.96 * error), abs=0.02)


# Two models


def noisy(folder: Path, noise: float, **config: Any) -> Path:
    """The packaged model with noise on its weights; another config makes it another model to those who ask which it is."""
    import torch
    from transformers import AutoModelForCausalLM

    shutil.copytree(model_path(), folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            weights += noise * weights.std() * torch.randn_like(weights)
    model.save_pretrained(folder)
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "noise": noise, **config}))
    return folder


def smaller(folder: Path) -> Path:
    """Random weights in the packaged model's config with two layers, and its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(model_path(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = AutoConfig.from_pretrained(model_path(), num_hidden_layers=2)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("proxies")
    found = {name: noisy(folder / name, noise) for name, noise in (("same", 0.0), ("near", 0.3), ("far", 0.6))}
    return found | {"small": smaller(folder / "small")}


@pytest.fixture(scope="module")
def found(proxies: dict[str, Path]) -> dict[str, Comparison]:
    """Every proxy against the packaged model, on rows of the packaged sample."""
    examples = load_examples(sample_path())
    return {
        name: compare(examples, TARGET, str(folder), load_recipe("familiarity-top50"), rows=120)
        for name, folder in proxies.items()
    }


def test_equal_weights_agree_in_everything(found: dict[str, Comparison]) -> None:
    (ranks,) = found["same"].ranks
    assert ranks.overall == ranks.within == Estimate(1.0, 1.0, 1.0)
    assert found["same"].overlap == Estimate(1.0, 1.0, 1.0)


def test_agreement_falls_with_noise_on_the_weights(found: dict[str, Comparison]) -> None:
    inside = [found[name].ranks[0].within for name in ("same", "near", "far", "small")]
    shares = [found[name].overlap for name in ("same", "near", "far", "small")]
    for estimates in (inside, shares):
        values = [estimate.value for estimate in estimates if estimate]
        assert len(values) == 4
        assert values[0] > values[1] > values[2] > values[3], values
    assert found["near"].overlap.low > found["near"].chance.high
    assert found["small"].overlap.low <= found["small"].chance.value


def test_kept_rows_are_those_of_a_run_over_the_sample(
    found: dict[str, Comparison], proxies: dict[str, Path], tmp_path: Path
) -> None:
    taken = sample(load_examples(sample_path()), 120)
    rows = [
        {"messages": list(example.messages), "source": example.source, "gold": example.gold, "row": example.row}
        for example in taken.examples
    ]
    kept = [
        pipeline.run("familiarity-top50", rows, model=str(model), out=tmp_path / name).selection.kept
        for name, model in (("target", model_path()), ("proxy", proxies["near"]))
    ]
    one = found["near"]
    assert (one.kept_by_target, one.kept_by_proxy) == (kept[0].sum(), kept[1].sum())
    assert one.overlap.value == (kept[0] & kept[1]).sum() / kept[0].sum()


def test_rank_agreement_is_that_of_the_scores_that_reach_the_step(
    found: dict[str, Comparison], proxies: dict[str, Path], tmp_path: Path
) -> None:
    from scipy import stats

    taken = sample(load_examples(sample_path()), 120)
    chosen = load_recipe("familiarity-top50")
    values = []
    for name, model in (("target", model_path()), ("proxy", proxies["far"])):
        scored = annotate(taken.examples, list(chosen.build_filters({"model": str(model)}).values()), tmp_path / name)
        assert isinstance(scored, Annotations)
        frame = Frame(scored.rows, {store.filter_name: store for store in scored.stores})
        values.append(frame.column("perplexity.content_nll").values)
    _, first = np.unique(frame.codes("content_key"), return_index=True)
    fatal = frame.column("errors.fatal")
    there = np.isin(np.arange(frame.count), first) & ~(fatal.values.astype(bool) & fatal.valid)
    (ranks,) = found["far"].ranks
    assert ranks.rows == there.sum()
    assert ranks.overall
    assert ranks.overall.value == pytest.approx(stats.spearmanr(values[0][there], values[1][there]).statistic, abs=1e-6)
    assert ranks.groups["prompt"] == ranks.rows - sum(ranks.groups.get(name, 0) for name in ("stratum", "source", "dataset"))


def test_chance_is_what_random_scores_would_keep(tiny_model_dir: Path, tmp_path: Path) -> None:
    # The best of four is a random one of four.
    other = save_tiny_model(tmp_path / "other", chat_template=CHAT_TEMPLATE, seed=1)
    one = compare(load_examples(some_rows(160)), {"model": str(tiny_model_dir)}, str(other), recipe(BEST), rows=160)
    assert one.kept_by_target == one.sampled_prompts == 40
    assert one.chance.value == pytest.approx(0.25, abs=0.03)
    assert one.chance.low == pytest.approx(0.25 - 1.96 * np.sqrt(0.25 * 0.75 / 40), abs=0.06)


@pytest.mark.parametrize(("filter_", "field", "passes"), [("perplexity", "content_nll", 1), ("ifd", "ifd", 2)])
def test_time_is_scaled_from_the_tokens_that_the_models_read(
    tiny_model_dir: Path, plain_model_dir: Path, filter_: str, field: str, passes: int
) -> None:
    chosen = recipe({"keep": {"field": f"{filter_}.{field}", "lowest": "50%"}}, **{filter_: {"model": "target"}})
    examples = load_examples(some_rows(400))
    one = compare(examples, {"model": str(tiny_model_dir)}, str(plain_model_dir), chosen, rows=40)
    for scoring, model in ((one.target, tiny_model_dir), (one.proxy, plain_model_dir)):
        likelihood = Likelihood(model=str(model))
        rows = likelihood.rendered(list(sample(examples, 40).examples), likelihood.renderer())
        assert all(isinstance(row, Rendered) for row in rows)
        whole = sum(len(row.input_ids) for row in rows if isinstance(row, Rendered))
        alone = sum(1 + turn.content[1] - turn.content[0] for row in rows if isinstance(row, Rendered) for turn in row.turns)
        assert scoring.sampled_tokens == whole + (passes - 1) * alone
        assert scoring.tokens == round(scoring.sampled_tokens * 400 / one.sampled_rows)
        assert scoring.seconds == pytest.approx(scoring.sampled_seconds * 400 / one.sampled_rows, rel=1e-3)
        assert 0 < scoring.sampled_seconds < 60
    assert one.saved_seconds == one.target.seconds - one.proxy.seconds
    assert (one.rows, one.sampled_rows) == (400, 40)


def test_loading_and_what_else_is_scored_takes_no_time() -> None:
    with progress.spending() as outer:
        with progress.forward_pass(), progress.spending() as inner:
            progress.tick(tokens=5)
        progress.tick(rows=3, tokens=7)
    assert (inner.seconds, inner.tokens, outer.tokens) == (0.0, 5, 7)
    assert 0 < outer.seconds < 1


def test_a_proxy_with_fewer_positions_and_no_template_is_rendered_in_its_own_way(tiny_model_dir: Path) -> None:
    target = {**TARGET, "max_length": 1000}
    small = tiny_model_dir.parent / "plain512"
    if not small.exists():
        save_tiny_model(small, chat_template=None)
    long = [record(f"q{n}", "word " * 400) for n in range(20)] + [record(f"p{n}", "one two " * n) for n in range(1, 21)]
    one = compare(load_examples(long), target, str(small), recipe({"keep": {"field": "perplexity.content_nll", "lowest": 9}}))
    assert (one.target.is_chat, one.proxy.is_chat) == (True, False)
    assert (one.target.truncated, one.proxy.truncated) == (0, 20)
    assert any("has no chat template" in note and "as strings" in note for note in one.notes)


def test_what_normalise_strips_is_stripped_for_both(tiny_model_dir: Path, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other", chat_template=CHAT_TEMPLATE, seed=1)
    rows = [record(f"q{n}", f"<<1+{n}=2>>so it is {n}") for n in range(20)]
    plain, less = (
        compare(load_examples(rows), {"model": str(tiny_model_dir), **more}, str(other), recipe(BEST))
        for more in ({}, {"normalise": ("calculator_marks",)})
    )
    assert less.proxy.sampled_tokens < plain.proxy.sampled_tokens
    assert less.proxy.sampled_tokens == less.target.sampled_tokens


def test_filters_that_compare_rows_are_said_to_see_the_sample_alone(tiny_model_dir: Path, plain_model_dir: Path) -> None:
    one = compare(
        load_examples(some_rows(80)), {"model": str(tiny_model_dir)}, str(plain_model_dir), recipe({"deduplicate": "near"}, BEST)
    )
    assert any("near_duplicate" in note and "sample alone" in note for note in one.notes)


@pytest.mark.parametrize(
    ("steps", "filters", "said"),
    [
        (
            [{"keep": {"field": "length.words", "lowest": 9}}],
            {"length": {}},
            r"by no score of the target \(it ranks by length.words\)",
        ),
        (
            [{"drop": {"field": "perplexity.nll", "above": 3}}],
            {"perplexity": {"model": "target"}},
            "ranks by no score of the target, so",
        ),
        ([BEST], {"perplexity": {"model": "elsewhere"}}, r"by no score of the target \(it ranks by perplexity.content_nll\)"),
    ],
)
def test_a_recipe_that_ranks_by_no_score_of_the_target_is_a_usage_error(steps: list[Any], filters: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        compare(load_examples(some_rows(8)), TARGET, "nowhere", recipe(*steps, **filters))


def test_a_proxy_that_is_the_target_is_a_usage_error(tmp_path: Path) -> None:
    again = shutil.copytree(model_path(), tmp_path / "again")
    with pytest.raises(UsageError, match="is the target itself"):
        compare(load_examples(some_rows(8)), TARGET, str(again), recipe(BEST))


def test_a_proxy_that_is_no_model_or_scores_nothing_says_so(tmp_path: Path, plain_model_dir: Path) -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        compare(load_examples(some_rows(8)), TARGET, "./missing", recipe(BEST))
    chats = [
        {"messages": [{"role": ("user", "assistant")[turn % 2], "content": f"{n} {turn}"} for turn in range(4)]} for n in range(9)
    ]
    with pytest.raises(InputError, match=r"plain: can score none of 9 sampled rows \(9 conversation_without_chat_template\)"):
        compare(load_examples(chats), TARGET, str(plain_model_dir), recipe(BEST))


def test_what_a_recipe_refuses_is_told_with_the_model_by_whose_scores(tiny_model_dir: Path, plain_model_dir: Path) -> None:
    turns = [{"role": ("user", "assistant")[turn % 2], "content": f"{turn}"} for turn in range(4)]
    rows = [{"messages": turns}, *({"messages": [{"role": "user", "content": f"{n}"}, turns[1]]} for n in range(9))]
    strict = recipe(BEST).model_copy(update={"unscored": "error"})
    with pytest.raises(RecipeError, match=r"by the scores of .*plain: x: 1 of 10 rows have no perplexity.content_nll"):
        compare(load_examples(rows), {"model": str(tiny_model_dir)}, str(plain_model_dir), strict)
    nothing = recipe({"drop": {"field": "perplexity.nll", "above": 0}}, BEST)
    with pytest.raises(InputError, match=r"by the scores of .*chat: x: nothing is left"):
        compare(load_examples(some_rows(8)), {"model": str(tiny_model_dir)}, str(plain_model_dir), nothing)


def test_an_order_is_compared_as_an_order(proxies: dict[str, Path]) -> None:
    chosen = recipe({"order": {"field": "perplexity.content_nll"}})
    one = compare(load_examples(sample_path()), TARGET, str(proxies["near"]), chosen, rows=60)
    assert one.overlap == one.chance == Estimate(1.0, 1.0, 1.0)
    said = advice(replace(one, saved_seconds=1.0))
    assert one.ranks[0].overall
    assert f"in another order (rank correlation {one.ranks[0].overall.value:.2f})" in said


# What is said


def scoring(seconds: float) -> Scoring:
    return Scoring("m", "cpu", "float32", True, {}, 0, 100.0, 1000, 10.0, round(seconds * 100), seconds)


def comparison(share: Sequence[float], chance: Sequence[float], *, target: float = 1000.0, step: str = "keep f.x") -> Comparison:
    """300 rows of 75 prompts with these figures."""
    ranks = RankAgreement(step, "f.x", 300, Estimate(0.5, -0.1, 0.7), Estimate(0.4, 0.3, 0.5), {"prompt": 300})
    return Comparison(
        data="d",
        recipe="r",
        seed=0,
        rows=30_000,
        refused=0,
        sampled_rows=300,
        sampled_prompts=75,
        target=scoring(target),
        proxy=scoring(100.0),
        ranks=[ranks],
        kept_by_target=150,
        kept_by_proxy=150,
        overlap=Estimate(*share),
        chance=Estimate(*chance),
        saved_seconds=target - 100.0,
        advice="",
        notes=[],
    )


CHANCE = (0.5, 0.44, 0.56)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            comparison((0.9, 0.85, 0.95), CHANCE),
            r"\(1 min 40 s instead of 16 min 40 s\), 10% \(5% to 15%\) of the rows that the ",
        ),
        (comparison((0.9, 0.85, 0.95), CHANCE), "with random scores 50%; what that does to training only a trial can say"),
        (comparison((0.55, 0.48, 0.62), CHANCE), "no more of the target's rows than random scores may"),
        (comparison((0.55, 0.52, 0.58), CHANCE), "no more of the target's rows than random scores may"),
        (comparison((0.3, 0.2, 0.4), CHANCE), "no more of the target's rows than random scores may"),
        (comparison((0.9, 0.85, 0.95), CHANCE, target=100.0), "as long as the target"),
        (comparison((1, 1, 1), (1, 1, 1)), "the same ones whatever the scores are"),
        (comparison((1, 1, 1), (1, 1, 1), step="order by f.x"), "order agrees with the target's no more than random ones"),
    ],
)
def test_advice_claims_no_more_than_the_figures(given: Comparison, said: str) -> None:
    import re

    assert re.search(said, advice(given))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "d.jsonl", some_rows(80))


def test_the_command_prints_the_comparison(data: Path, tiny_model_dir: Path, plain_model_dir: Path) -> None:
    done = run_command("quote", data, "--model", tiny_model_dir, "--proxy", plain_model_dir, "--rows", "40")
    assert done.code == 0, done.err
    for words in (
        "40 of 10 prompts scored by both models, recipe familiarity-top50",
        "tokens/s",
        "ranked in prompt",
        "only 10 prompts",
    ):
        assert words in " ".join(done.out.split()), words


def test_json_holds_everything_and_a_recipe_of_ones_own_is_taken(
    data: Path, tiny_model_dir: Path, plain_model_dir: Path, tmp_path: Path
) -> None:
    steps = ["best_of: {field: entropy.entropy, highest: 1}"]
    mine = recipe_file(tmp_path / "mine.yaml", steps, filters="{entropy: {model: target}}")
    done = run_command("quote", data, "--model", tiny_model_dir, "--proxy", plain_model_dir, "--recipe", mine, "--json")
    assert done.code == 0, done.err
    assert done.json["recipe"] == "mine"
    assert done.json["ranks"][0]["field"] == "entropy.entropy"
    assert done.json["overlap"].keys() == {"value", "low", "high"}
    assert done.json["target"]["model"] == str(tiny_model_dir)


@pytest.mark.parametrize("more", [["--rows", "40"], ["--recipe", "familiarity-top50"]])
def test_options_of_a_comparison_need_a_proxy(data: Path, tiny_model_dir: Path, more: list[str]) -> None:
    done = run_command("quote", data, "--model", tiny_model_dir, *more)
    assert (done.code, done.out) == (2, "")
    assert "pass --proxy" in done.err


def test_a_proxy_needs_a_target(data: Path, plain_model_dir: Path) -> None:
    done = run_command("quote", data, "--proxy", plain_model_dir)
    assert done.code == 2
    assert "pass --model" in done.err


# Afterwards


def test_a_recipe_may_name_the_proxy_and_the_trial_trains_the_model_of_the_run(
    tmp_path: Path, tiny_model_dir: Path, plain_model_dir: Path
) -> None:
    rows = [{**row, "gold": row["response"].split()[2].rstrip(".")} for row in some_rows(160)]
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        f"name: mine\nfilters:\n  perplexity: {{model: {plain_model_dir}}}\nunscored: keep\n"
        "steps:\n  - best_of: {field: perplexity.content_nll, lowest: 2}\n"
        "trial: {against: [base], training: {steps: 1}}\n"
    )
    data = write_rows(tmp_path / "d.jsonl", rows)
    done = run_command("--recipe", mine, data, "--model", tiny_model_dir, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    (store,) = (tmp_path / "out" / "annotations").glob("perplexity-*")
    assert json.loads((store / "plan.json").read_text())["parameters"]["model"] == str(plain_model_dir)
    preparation = prepare(tmp_path / "out", str(mine), model={"model": str(tiny_model_dir)}, request=Request())
    assert preparation.plan.model["model"] == str(tiny_model_dir)
    assert preparation.arms.frame.stores.keys() == {"perplexity"}
    # Scored by plain concatenation, so written as strings: what the comparison's note is about.
    (kept,) = (tmp_path / "out" / "selection" / "kept").glob("*.parquet")
    assert pa.types.is_string(pq.read_schema(kept).field("prompt").type)
