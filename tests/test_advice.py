"""What `advise` measures of sources, how it ranks them, and what it says of its own rule."""

import importlib.util
import json
import math
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from workshop import curate as run_command
from workshop import record, write_rows

from curate.advice import EVIDENCE, Advice, SourceFacts, advise, draw, ranking
from curate.advice.advising import notes, reason
from curate.advice.sampling import Sample, sample
from curate.advice.statistics import Estimate, Redrawn, is_far_above
from curate.errors import UsageError
from curate.examples import load_examples
from curate.reference import model_path

ROOT = Path(__file__).parents[1]
RECORDS = ROOT.parent / "shared" / "data" / "familiarity"


def point(value: float) -> Estimate:
    return Estimate(value, value, value)


def facts(source: str, perplexity: float, *, aligned: float | None = None, errors: float = 0.0) -> SourceFacts:
    """A source of 200 rows."""
    return SourceFacts(
        source=source,
        rows=200,
        unscored=0,
        truncated=0,
        is_own=False,
        perplexity=point(perplexity),
        median_perplexity=point(perplexity),
        self_aligned=None if aligned is None else point(aligned),
        error_rate=point(errors),
        self_bleu=None,
        self_bleu_rows=0,
        length=point(100.0),
    )


def taken(**changes: Any) -> Sample:
    """A sample in which every source answers every prompt."""
    return replace(Sample(load_examples([record("q", "a")]), shared_prompts=200, prompts=200, without_source=0), **changes)


# The rule


def test_lowest_self_aligned_perplexity_comes_first() -> None:
    assert ranking({"a": 2.0, "b": 1.5}, {"a": 1.0, "b": 3.0}) == ("self_aligned", ["b", "a"])


def test_without_it_for_one_source_all_are_ranked_by_perplexity() -> None:
    assert ranking({"a": 2.0, "b": None}, {"a": 5.0, "b": 3.0}) == ("perplexity", ["b", "a"])


def test_a_source_without_perplexity_is_not_ranked_and_names_break_ties() -> None:
    assert ranking({}, {"c": 2.0, "b": 2.0, "a": None}) == ("perplexity", ["b", "c"])


def test_the_evidence_is_what_the_benchmark_computes() -> None:
    if not (RECORDS / "recorded_outcomes.jsonl.gz").exists():
        pytest.skip("no recorded outcomes beside the repository")
    benchmark = load_benchmark()
    pairs, _ = benchmark.read(RECORDS / "recorded_outcomes.jsonl.gz")
    losses = benchmark.losses_of(pairs)
    rules = {"self_aligned": "lowest self-aligned perplexity (shipped)", "perplexity": "lowest perplexity"}
    for measure, rule in rules.items():
        found, stated = benchmark.evidence(pairs, losses, rule).to_dict(), EVIDENCE[measure].to_dict()  # type: ignore[index]
        assert stated.keys() == found.keys()
        for name, value in stated.items():
            assert value == (pytest.approx(found[name], abs=6e-4) if isinstance(value, dict) else found[name]), (measure, name)


def test_the_rule_loses_no_more_than_promised() -> None:
    assert EVIDENCE["self_aligned"].all_pairs.mean <= 1.05
    assert EVIDENCE["self_aligned"].where_sources_differ.mean <= 1.10


def test_a_learnt_rule_never_sees_the_task_it_is_judged_on() -> None:
    benchmark = load_benchmark()
    seen: list[set[str]] = []

    def learn(others: list[Any]) -> Any:
        seen.append({pair.task for pair in others})
        return lambda pair: 0

    benchmark.LEARNT = {"spy": learn}
    pairs = [made_up(benchmark, target, task) for task in "abc" for target in ("t", "u")]
    benchmark.losses_of(pairs)
    assert sorted(map(sorted, seen)) == [["a", "b"], ["a", "c"], ["b", "c"]]


def test_regret_of_one_real_run_is_judged_on_the_other_seeds() -> None:
    benchmark = load_benchmark()
    pair = replace(made_up(benchmark, "t", "a"), accuracy=np.array([[9.0, 0.0], [1.0, 2.0]]))
    # Seed 1 chooses the first source, which loses 2 on seed 2; seed 2 chooses the second, which loses 8 on seed 1.
    assert benchmark.on_other_seeds(pair, None) == pytest.approx((2 + 8) / 2)


def test_a_benchmark_without_data_says_that_it_was_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = load_benchmark()
    monkeypatch.setattr(sys, "argv", ["advise.py", "--data", str(tmp_path)])
    with pytest.raises(SystemExit, match="skipped, no recorded_outcomes"):
        benchmark.main()


def load_benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("benchmark_advise", ROOT / "benchmarks" / "advise.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def made_up(benchmark: Any, target: str, task: str) -> Any:
    names = ("perplexity", "self-aligned", "ifd", "length", "reward", "car")
    features = {name: np.array([0.1, 0.2]) for name in names}
    return benchmark.Pair(target, task, ["one", "two"], np.array([[1.0, 2.0], [2.0, 3.0]]), features)


# Which rows


def test_the_prompts_that_all_sources_answer_come_first() -> None:
    rows = [record(f"q{n}", f"a{n}", source="x") for n in range(50)]
    rows += [record(f"q{n}", f"b{n}", source="y") for n in range(40, 60)]
    found = sample(load_examples(rows), 10)
    assert (found.shared_prompts, found.prompts) == (10, 10)
    assert Counter(example.source for example in found.examples) == {"x": 10, "y": 10}


def test_sources_that_share_no_prompt_each_give_their_rows() -> None:
    rows = [record(f"q{n}", "a", source="x") for n in range(30)] + [record(f"p{n}", "b", source="y") for n in range(5)]
    found = sample(load_examples(rows), 8)
    assert Counter(example.source for example in found.examples) == {"x": 8, "y": 5}
    assert found.shared_prompts == 0


def test_one_row_a_prompt_and_the_seed_decides_which_prompts() -> None:
    rows = [record(f"q{n // 2}", f"a{n}", source="x") for n in range(60)]
    first, again, other = (sample(load_examples(rows), 10, seed=seed) for seed in (0, 0, 1))
    prompts = [[example.prompt_text for example in found.examples] for found in (first, again, other)]
    assert len(set(prompts[0])) == 10
    assert prompts[0] == prompts[1] != prompts[2]


def test_rows_keep_gold_tests_and_prompt_and_those_without_source_are_counted() -> None:
    rows = [record("q", "a", source="x", gold="4", id="7"), record("q", "b")]
    found = sample(load_examples(rows), 10)
    (example,) = found.examples
    assert (example.gold, example.id, example.source, found.without_source) == ("4", "7", "x", 1)
    assert example.prompt_key == next(iter(load_examples(rows))).prompt_key


def test_data_without_sources_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no row says which source wrote it.*--columns source=NAME"):
        sample(load_examples([record("q", "a")]), 10)


# Intervals


def test_an_interval_covers_the_mean_and_shrinks_with_the_root_of_the_count() -> None:
    widths = []
    for count in (100, 400):
        values = np.random.default_rng(1).normal(size=count)
        found = Redrawn(count).mean(np.arange(count), values)
        assert found.low < found.value < found.high
        assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(count), rel=0.15)
        widths.append(found.high - found.low)
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.2)


def test_a_median_of_known_rows() -> None:
    found = Redrawn(5).median(np.arange(5), np.array([5.0, 1.0, 3.0, 2.0, 4.0]))
    assert found.value == 3
    assert 1 <= found.low <= 3 <= found.high <= 5


def test_rows_of_one_prompt_are_drawn_together() -> None:
    redrawn = Redrawn(50)
    once = redrawn.mean(np.arange(50), np.arange(50.0))
    twice = redrawn.mean(np.repeat(np.arange(50), 2), np.repeat(np.arange(50.0), 2))
    assert twice == once  # two equal rows of a prompt are no more evidence than one


def test_an_error_rate_is_far_above_when_even_its_lower_end_is() -> None:
    others = [Estimate(0.02, 0.0, 0.04), Estimate(0.04, 0.02, 0.06)]
    assert is_far_above(Estimate(0.5, 0.4, 0.6), others)
    assert not is_far_above(Estimate(0.10, 0.06, 0.15), others)


# What is said


def test_the_reason_names_first_and_next() -> None:
    said = reason([facts("a", 2.0), facts("b", 4.0)], "perplexity", [])
    assert said.startswith("a has the lowest perplexity (2.00; next b, 4.00)")


def test_sources_that_cannot_be_told_apart_are_named() -> None:
    assert "cannot tell it from b" in reason([facts("a", 2.0), facts("b", 2.1), facts("c", 9.0)], "perplexity", ["b"])


def test_a_gap_that_meant_nothing_in_the_records_is_called_so() -> None:
    assert "b is within 10%" in reason([facts("a", 2.0), facts("b", 2.1), facts("c", 9.0)], "perplexity", [])


def test_one_source_leaves_nothing_to_choose() -> None:
    assert "nothing to choose" in reason([facts("a", 2.0)], "perplexity", [])


def test_a_source_full_of_mistakes_is_warned_about_first() -> None:
    sources = [facts("a", 2.0, errors=0.6), facts("b", 3.0), facts("c", 4.0, errors=0.02)]
    said = notes(sources, ["a", "b", "c"], taken(), has_own=True)
    assert said == [
        "a: 60% of its rows are wrong or broken, far more than in other sources. Mistakes can be familiar, and perplexity does not "
        "see them. It is ranked first: drop its mistakes (recipe `clean`) or take the next."
    ]


def test_few_rows_are_told() -> None:
    few, many = replace(facts("a", 2.0), rows=30), facts("b", 3.0)
    said = notes([few, many], ["a", "b"], taken(), has_own=True)
    assert said == ["fewer than 100 rows of a (30); the intervals are wide"]
    assert "of every source" in notes([few], ["a"], taken(), has_own=True)[0]


def test_unpaired_sources_and_rows_without_source_are_told() -> None:
    said = " ".join(
        notes([facts("a", 2.0), facts("b", 3.0)], ["a", "b"], taken(shared_prompts=0, without_source=3), has_own=True)
    )
    assert "only 0 of 200 sampled prompts are answered by every source" in said
    assert "3 rows name no source" in said


# Whole runs with a real model


@pytest.fixture(scope="module")
def familiar(tmp_path_factory: pytest.TempPathFactory) -> Advice:
    """Advice on the packaged sample, whose reference model was trained in the style of one of its sources."""
    from curate.pipeline import load_data

    out = tmp_path_factory.mktemp("advice")
    return advise(load_data(None), {"model": str(model_path())}, out, rows_per_source=12)


def test_the_source_that_the_model_was_trained_on_comes_first(familiar: Advice) -> None:
    assert familiar.ranked[0] == "reference-style"
    assert familiar.measure == "perplexity"
    assert {fact.rows for fact in familiar.sources} == {12}
    assert familiar.shared_prompts == familiar.prompts == 12


def test_set_perplexity_is_per_token_and_between_the_extremes_of_its_rows(familiar: Advice) -> None:
    import pyarrow.parquet as pq

    parts = {path.parent.name.partition("-")[0]: path for path in Path(familiar.out).glob("annotations/*/part-*.parquet")}
    rows = pq.read_table(next(Path(familiar.out).glob("rows/part-*.parquet")))["source"].to_pylist()
    scores = pq.read_table(parts["perplexity"])["perplexity"].to_pylist()
    mine = [score for source, score in zip(rows, scores, strict=True) if source == "human-terse"]
    total = sum(score["content_nll"] * score["content_tokens"] for score in mine) / sum(score["content_tokens"] for score in mine)
    (fact,) = (fact for fact in familiar.sources if fact.source == "human-terse")
    assert fact.perplexity
    assert fact.perplexity.value == pytest.approx(math.exp(total), rel=1e-9)
    assert fact.perplexity.low <= fact.perplexity.value <= fact.perplexity.high


def test_advice_is_the_same_again_and_scores_nothing_twice(familiar: Advice) -> None:
    from curate.pipeline import load_data

    before = {path: path.stat().st_mtime_ns for path in Path(familiar.out).glob("annotations/*/part-*")}
    again = advise(load_data(None), {"model": str(model_path())}, familiar.out, rows_per_source=12)
    assert again.to_dict() == familiar.to_dict()
    assert {path: path.stat().st_mtime_ns for path in Path(familiar.out).glob("annotations/*/part-*")} == before


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture_is_drawn(familiar: Advice, tmp_path: Path, suffix: str) -> None:
    draw(familiar, tmp_path / f"new/advice.{suffix}")
    assert (tmp_path / f"new/advice.{suffix}").stat().st_size > 5000


def test_a_picture_of_another_format_is_refused(familiar: Advice, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in \.svg, \.png, \.pdf"):
        draw(familiar, tmp_path / "advice.gif")


def test_the_command_prints_the_table_and_what_it_rests_on(tmp_path: Path) -> None:
    done = run_command("advise", "--rows-per-source", "4", "--out", str(tmp_path / "out"))
    assert done.code == 0, done.err
    assert done.out.split()[:7] == ["source", "rows", "perplexity", "median", "errors", "self-BLEU", "characters"]
    said = " ".join(done.out.split())
    assert "reference-style has the lowest perplexity" in said
    assert "this choice lost 1.08 points (95 % interval 0.69 to 1.53) against the best source" in said
    assert "the source made no difference" in said


def test_the_command_prints_json(tmp_path: Path, plain_model_dir: Path) -> None:
    rows = [record(f"q{n}", f"an answer of {n}", source="only", gold="1") for n in range(3)]
    data = write_rows(tmp_path / "data.jsonl", rows)
    done = run_command("advise", str(data), "--model", str(plain_model_dir), "--out", str(tmp_path / "out"), "--json")
    found = json.loads(done.out)
    assert found["ranked"] == ["only"]
    assert "nothing to choose" in found["reason"]
    assert found["evidence_figures"]["pairs"] == 34


def test_data_without_a_model_is_refused(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl", [record("q", "a", source="x")])
    done = run_command("advise", str(data))
    assert done.code == 2
    assert "pass --model" in done.err


def test_the_targets_own_answers_align_and_are_not_ranked(tmp_path: Path) -> None:
    from curate.pipeline import load_data

    found = advise(load_data(None), {"model": str(model_path())}, tmp_path, own="reference-style", rows_per_source=12)
    assert found.measure == "self_aligned"
    assert set(found.ranked) == {"careless", "llm-verbose", "human-terse"}
    *ranked, own = found.sources
    assert own.is_own
    assert own.self_aligned
    values = [fact.self_aligned.value for fact in ranked if fact.self_aligned]
    assert values == sorted(values)
    assert own.self_aligned.value < values[0]


def test_self_bleu_is_that_of_equally_many_rows(tmp_path: Path, plain_model_dir: Path) -> None:
    from curate.diversity.self_bleu import set_self_bleu

    rows = [record(f"q{n}", "the same words again and again", source="parrot") for n in range(9)]
    rows += [record(f"q{n}", f"{n} other words {n} each time {n}", source="poet") for n in range(4)]
    found = advise(load_examples(rows), {"model": str(plain_model_dir)}, tmp_path, rows_per_source=9)
    facts = {fact.source: fact for fact in found.sources}
    assert {fact.self_bleu_rows for fact in facts.values()} == {4}
    parrot, poet = facts["parrot"].self_bleu, facts["poet"].self_bleu
    assert parrot
    assert poet
    assert parrot.value == pytest.approx(1)
    assert poet.value == pytest.approx(set_self_bleu(row["response"] for row in rows[9:]), abs=1e-9)


def test_an_own_source_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--own nobody: no such source"):
        advise(
            load_examples([record("q", "a", source="x")]), {"model": str(model_path())}, tmp_path, own="nobody", rows_per_source=4
        )
