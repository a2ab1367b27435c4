"""Rank correlations between scores, and what their variance is made of."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from workshop import curate as run_command
from workshop import record

from curate.annotations import Annotations, annotate
from curate.correlation import Correlations, correlate, draw, omega_squared, rank_correlation, shares
from curate.correlation.shares import additive, length_bins
from curate.correlation.spearman import ranks
from curate.errors import UsageError
from curate.examples import load_examples
from curate.filters import build_filter

# Ranks


def test_ties_share_their_mean_rank() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0, 3.0])).tolist() == [4, 1, 4, 2, 4]
    assert ranks(np.array([])).tolist() == []


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([1, 2, 3, 4], [10, 100, 1000, 10000], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3], [1, 3, 2], 0.5),
        ([1, 1, 1], [1, 2, 3], None),
        ([1, 2], [1, 2], None),
    ],
)
def test_known_rank_correlations(left: list[float], right: list[float], expected: float | None) -> None:
    found = rank_correlation(np.array(left, dtype=np.float64), np.array(right, dtype=np.float64))
    assert found == (None if expected is None else pytest.approx(expected))


def test_rank_correlation_is_scipys_with_ties() -> None:
    from scipy import stats

    generator = np.random.default_rng(0)
    left = generator.integers(0, 8, 500).astype(np.float64)
    right = left + generator.integers(0, 20, 500).astype(np.float64)
    assert rank_correlation(left, right) == pytest.approx(float(stats.spearmanr(left, right).statistic), abs=1e-12)


# Shares of variance


def crossed(sources: int, prompts: int) -> tuple[Any, Any]:
    """Codes of a data set in which every source answers every prompt."""
    return np.tile(np.arange(sources), prompts), np.repeat(np.arange(prompts), sources)


def test_omega_squared_of_a_hand_computed_case() -> None:
    # Groups {1, 3} and {5, 7}: SST 20, SSB 16, SSW 4, MSW 2, so (16 - 2) / (20 + 2).
    assert omega_squared(np.array([1.0, 3.0, 5.0, 7.0]), np.array([0, 0, 1, 1])) == pytest.approx(14 / 22)


def test_a_score_that_is_its_source_is_all_source() -> None:
    source, prompt = crossed(4, 50)
    found = shares(source.astype(float), source, prompt, np.arange(200.0) % 7)
    assert found.source == pytest.approx(1)
    assert found.prompt == 0
    assert found.together == pytest.approx(1)


def test_noise_is_nothing_although_its_prompts_are_many_and_small() -> None:
    source, prompt = crossed(2, 2000)
    noise = np.random.default_rng(0).normal(size=4000)
    found = shares(noise, source, prompt, np.random.default_rng(1).normal(size=4000))
    plain = 1 - sum(noise[prompt == p].var() * 2 for p in range(2000)) / (noise.var() * 4000)
    assert plain == pytest.approx(0.5, abs=0.05)  # uncorrected, prompt "explains" half
    assert found.prompt == pytest.approx(0, abs=0.05)
    assert found.source == pytest.approx(0, abs=0.01)
    assert found.together == pytest.approx(0, abs=0.05)


def part(values: Any, share: float) -> Any:
    """Values with this variance."""
    return (values - values.mean()) / values.std() * np.sqrt(share)


@pytest.mark.parametrize("design", ["crossed", "two of ten at random"])
def test_known_parts_are_found_again(design: str) -> None:
    generator = np.random.default_rng(0)
    source, prompt = crossed(10, 500)
    if design != "crossed":
        source, prompt = generator.integers(0, 10, 5000), np.arange(5000) // 2
    values = part(generator.normal(size=10)[source], 0.5) + part(generator.normal(size=prompt.max() + 1)[prompt], 0.2)
    found = shares(values + part(generator.normal(size=5000), 0.3), source, prompt, generator.normal(size=5000))
    assert found.source == pytest.approx(0.5, abs=0.03)
    assert found.prompt == pytest.approx(0.2, abs=0.03)
    assert found.length == pytest.approx(0, abs=0.01)
    assert found.together == pytest.approx(0.7, abs=0.03)


def test_sources_that_answer_prompts_of_their_own_are_part_of_what_prompts_explain() -> None:
    generator = np.random.default_rng(0)
    prompt = np.arange(4000) // 4
    source = prompt % 2
    found = shares(source * 2 + generator.normal(size=4000), source, prompt, generator.normal(size=4000))
    assert found.source == pytest.approx(0.5, abs=0.03)
    assert found.prompt == pytest.approx(0.5, abs=0.04)


def test_together_is_adjusted_r_squared_of_the_dummy_regression() -> None:
    generator = np.random.default_rng(0)
    source, prompt = generator.integers(0, 5, 300), generator.integers(0, 30, 300)  # not balanced, so that the parts overlap
    values = generator.normal(size=5)[source] + generator.normal(size=30)[prompt] + generator.normal(size=300)
    design = np.concatenate([np.eye(5)[source], np.eye(30)[prompt][:, 1:]], axis=1)
    rest = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    expected = 1 - (rest @ rest / (300 - 34)) / values.var(ddof=1)
    fit = additive(values, [source, prompt])
    assert fit
    assert fit.adjusted_r_squared == pytest.approx(expected, abs=1e-6)


def test_a_bend_in_length_counts() -> None:
    length = np.linspace(-1, 1, 1000)
    found = shares(length**2, np.zeros(1000, dtype=int), np.arange(1000) // 2, length)
    assert found.source is None  # one source explains nothing that could be said
    assert found.length is not None
    assert found.length > 0.95


def test_one_row_a_prompt_says_nothing_of_prompts() -> None:
    assert omega_squared(np.array([1.0, 2.0, 4.0]), np.arange(3)) is None


def test_equal_lengths_stay_together() -> None:
    bins = length_bins(np.repeat([1.0, 2.0], 500))
    assert len(set(bins[:500])) == len(set(bins[500:])) == 1
    assert bins[0] != bins[-1]


# A run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows whose source decides what they look like."""
    rows = [
        record(f"q{n}", ("short " * 3 if source == "a" else "a long text ") * (n % 5 + 1), source=source, gold="1")
        for n in range(30)
        for source in "ab"
    ]
    out = tmp_path_factory.mktemp("run")
    filters = [build_filter(name, {}, where="test") for name in ("length", "errors", "tells")]
    assert isinstance(annotate(load_examples(rows), filters, out), Annotations)
    return out


@pytest.fixture(scope="module")
def found(folder: Path) -> Correlations:
    return correlate(folder)


def test_every_score_stands_against_every_other(found: Correlations) -> None:
    names = [field.name for field in found.fields]
    assert names[0] == "characters"
    assert "length.words" in names
    words = names.index("length.words")
    assert found.correlation[words][words] == pytest.approx(1)
    assert found.correlation[0][words] == found.correlation[words][0]
    assert found.correlation[0][words] == pytest.approx(0.8, abs=0.2)
    assert found.counts[0][words] == found.rows == 60


def test_copies_and_constants_are_left_out_and_named(found: Correlations) -> None:
    assert found.copies["length.characters"] == "characters"
    assert "errors.empty" in found.constant
    assert not {"length.characters", "errors.empty"} & {field.name for field in found.fields}


def test_rows_without_a_score_are_left_out_of_its_pairs_alone(tmp_path: Path) -> None:
    rows = [record(f"q{n}", f"The answer is {n}.", source="ab"[n % 2], gold=str(n % 3) if n < 8 else None) for n in range(12)]
    annotate(load_examples(rows), [build_filter("errors", {}, where="test"), build_filter("length", {}, where="test")], tmp_path)
    found = correlate(tmp_path, fields=["errors.wrong", "characters", "length.words"])
    assert [field.scored for field in found.fields][:2] == [8, 12]
    assert found.counts[0][1] == 8


def test_fields_are_chosen_by_filter_name_or_pattern(folder: Path) -> None:
    assert {field.name for field in correlate(folder, fields=["length"]).fields} == {
        f"length.{what}" for what in ("characters", "words", "prompt_characters")
    }
    assert [field.name for field in correlate(folder, fields=["*.words"]).fields] == ["length.words"]


def test_one_filter_with_two_settings_stands_twice(tmp_path: Path) -> None:
    rows = [record(f"q{n}", "once more " * n + "the end.", source="ab"[n % 2]) for n in range(12)]
    both = [build_filter("errors", {"copies": copies}, where="test") for copies in (3, 9)]
    annotate(load_examples(rows), both, tmp_path)
    names = [field.name for field in correlate(tmp_path, fields=["*.loop"]).fields]
    assert len(names) == 2
    assert all(name.startswith("errors-") for name in names)


def test_an_unknown_field_is_refused_with_the_nearest(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"no such score; did you mean 'length.words'"):
        correlate(folder, fields=["length.wrods"])


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture_is_drawn(found: Correlations, tmp_path: Path, suffix: str) -> None:
    draw(found, tmp_path / f"scores.{suffix}")
    assert (tmp_path / f"scores.{suffix}").stat().st_size > 5000


def test_the_command_prints_table_and_json(folder: Path, tmp_path: Path) -> None:
    done = run_command("correlate", str(folder), "--fields", "characters,length.words", "--plot", str(tmp_path / "a.svg"))
    assert done.code == 0, done.err
    assert "share of variance" in done.out
    assert "Spearman" in done.out
    assert (tmp_path / "a.svg").is_file()
    data = json.loads(run_command("correlate", str(folder), "--json").out)
    assert data["rows"] == 60
    assert len(data["correlation"]) == len(data["fields"])


def test_a_folder_without_scores_is_refused(tmp_path: Path) -> None:
    done = run_command("correlate", str(tmp_path))
    assert done.code == 2
    assert "no finished rows" in done.err
