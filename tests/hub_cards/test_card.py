import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from card_folders import (
    body,
    edit_json,
    facts_of,
    fences,
    headings,
    load_yaml,
    run_folder,
    save_trial,
    tokens,
    trial_of,
    yaml_header,
)
from huggingface_hub import DatasetCard
from workshop import python, record, some_rows, write_rows

import curate
from curate.errors import UsageError
from curate.hub_cards import render, render_card
from curate.hub_cards.header import FIELDS, LICENSES, header_fields
from curate.hub_cards.inert import SIZES, bar, code, number, prose, share, table
from curate.hub_cards.ledger import BINS, Ledger
from curate.hub_cards.wording import in_words, meaning_of, without_paths
from curate.recipes import load_recipe
from curate.recipes.schema import shipped_recipes

HEADINGS = [
    "Curated fine-tuning rows",
    "How to load it",
    "What was kept, and why",
    "Step by step",
    "Source by source",
    "The recipe",
    "Scores of kept and rejected rows",
    "What the selection mostly follows",
    "Errors found, and errors left",
    "Does it help?",
    "Limits",
    "How to reproduce it",
    "Licence and provenance",
    "Citation",
]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder(tmp_path_factory.mktemp("card"))


@pytest.fixture(scope="module")
def card(out: Path) -> str:
    return render_card(out, facts_of(out), repo="me/set-curated")


def copy_of(out: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(out, tmp_path / "elsewhere"))


# --- header ---


def test_the_header_is_yaml_with_fields_that_the_hub_knows(card: str) -> None:
    found = load_yaml(yaml_header(card))
    assert FIELDS.issuperset(found)
    assert found["license"] == "mit"
    assert found["pretty_name"] == "set-curated"
    assert found["size_categories"] == ["n<1K"]
    assert found["source_datasets"] == ["org/set"]
    assert found["task_categories"] == ["text-generation"]


def test_the_hubs_own_reader_takes_the_header(card: str) -> None:
    data: Any = DatasetCard(card).data
    assert set(data.to_dict()) <= FIELDS
    assert data.configs[0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert DatasetCard(card).text.startswith("\n# `set-curated`")


def test_load_dataset_reads_a_folder_by_the_header(out: Path, card: str, tmp_path: Path) -> None:
    from datasets import load_dataset

    folder = tmp_path / "publication"
    for name, column in (("data", "prompt"), ("scores", "row")):
        (folder / name).mkdir(parents=True)
        pq.write_table(pa.table({column: ["a", "b"]}), folder / name / "train-00000-of-00001.parquet")
    (folder / "README.md").write_text(card, encoding="utf-8")
    options: dict[str, Any] = {"cache_dir": str(tmp_path / "cache")}
    assert load_dataset(str(folder), split="train", **options).column_names == ["prompt"]
    assert load_dataset(str(folder), "scores", split="train", **options).column_names == ["row"]
    assert len(list(load_dataset(str(folder), split="train", streaming=True))) == 2


@pytest.mark.parametrize(("synthetic", "tagged"), [(True, True), (False, False), (None, False)])
def test_synthetic_is_a_tag_only_where_it_is_true(out: Path, synthetic: bool | None, tagged: bool) -> None:
    found = load_yaml(yaml_header(render_card(out, facts_of(out, synthetic=synthetic))))
    assert ("synthetic" in found["tags"]) is tagged


def test_a_rejected_config_is_listed_where_there_is_one(out: Path) -> None:
    files: dict[str, Any] = {f"{name}/test.x-00000-of-00001.parquet": {"rows": 1} for name in ("data", "scores", "rejected")}
    card = render_card(out, facts_of(out, files=files, split="test.x"))
    found = load_yaml(yaml_header(card))
    assert [config["config_name"] for config in found["configs"]] == ["default", "scores", "rejected"]
    assert found["configs"][2]["data_files"] == [{"split": "test.x", "path": "rejected/test.x-*.parquet"}]
    assert 'load_dataset("USER/NAME", "rejected", split="test.x")' in card


@pytest.mark.parametrize(
    ("license", "fields"),
    [
        ("apache-2.0", {"license": "apache-2.0"}),
        ("MIT", {"license": "mit"}),
        ("My own: terms\n---", {"license": "other", "license_name": "my-own-terms"}),
        ("£££", {"license": "other", "license_name": "see-below"}),
        (None, {"license": "mit"}),
    ],
)
def test_a_licence_is_the_hubs_name_or_other(out: Path, license: str | None, fields: dict[str, str]) -> None:
    found = load_yaml(yaml_header(render_card(out, facts_of(out), license=license)))
    assert {key: value for key, value in found.items() if key.startswith("license")} == fields


def test_an_unknown_licence_is_not_guessed(out: Path) -> None:
    card = render_card(out, facts_of(out, source={"kind": "files"}))
    assert "license" not in load_yaml(yaml_header(card))
    assert "The licence is not known" in card


def test_several_licences_of_a_source_are_all_carried_over(out: Path) -> None:
    source = {"kind": "hub", "name": "org/set", "license": ["mit", "cc-by-4.0"]}
    card = render_card(out, facts_of(out, source=source))
    assert load_yaml(yaml_header(card))["license"] == ["mit", "cc-by-4.0"]
    assert "states as its licence `mit` and `cc-by-4.0`" in card


def test_norwegian_is_no_boolean(out: Path) -> None:
    found = load_yaml(yaml_header(render_card(out, facts_of(out, source={"kind": "hub", "name": "a/b", "language": ["no"]}))))
    assert found["language"] == ["no"]


@pytest.mark.parametrize(
    ("kept", "size"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (7_778, "1K<n<10K"), (10**6, "1M<n<10M"), (10**13, "n>1T")],
)
def test_sizes_are_the_hubs(kept: int, size: str) -> None:
    assert header_fields({}, title="x", license="mit", kept=kept)["size_categories"] == [size]
    assert size in SIZES
    assert "mit" in LICENSES


@pytest.mark.parametrize("repo", ["name", "a/b/c", "a b/c", "../x", "a/b\n", "a/$(x)", "a/b--c", ""])
def test_a_name_that_no_repository_can_have_is_refused(out: Path, repo: str) -> None:
    with pytest.raises(UsageError, match="USER/NAME"):
        render_card(out, facts_of(out), repo=repo)


def test_a_folder_without_a_selection_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="curate select"):
        render_card(tmp_path, {})


# --- text ---


def test_headings_are_the_templates(out: Path) -> None:
    assert headings(tokens(render_card(out, facts_of(out)))) == HEADINGS


def test_the_card_says_what_was_kept_of_what(card: str) -> None:
    assert "**20 of 40 rows**" in card
    assert "[`org/set`](https://huggingface.co/datasets/org/set/tree/" in card
    assert "| Rows kept | 20 of 40 (50.0 %) |" in card


def test_the_waterfall_adds_up_per_step_and_per_source(card: str) -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("|")]
    steps = [row for row in rows if row[0] in ("1", "2") and len(row) == 6]
    assert [(row[3], row[4], row[5]) for row in steps] == [("40", "0", "40"), ("40", "20", "20")]
    sources = {row[0]: row[1:] for row in rows if row[0] in ("`human`", "`gpt`", "all")}
    assert sources["all"] == ["40", "0", "20", "20", "50.0 %"]
    for place in range(4):
        assert int(sources["`human`"][place]) + int(sources["`gpt`"][place]) == int(sources["all"][place])


def test_loading_and_cutting_again_name_the_repository(card: str) -> None:
    (first,) = fences(tokens(card), "python")
    assert 'load_dataset("me/set-curated", split="train")' in first
    assert 'load_dataset("me/set-curated", "scores", split="train")' in first
    compile(first, "card", "exec")
    assert "curate select hf://datasets/me/set-curated --recipe my-recipe.yaml\n" in fences(tokens(card), "bash")[0]
    assert fences(tokens(card), "bash")[1] == 'pip install "curate-sft==0.1.0"\ncurate reproduce hf://datasets/me/set-curated\n'


def test_the_recipe_on_the_card_is_the_recipe(out: Path, card: str, tmp_path: Path) -> None:
    (text,) = fences(tokens(card), "yaml")
    (tmp_path / "r.yaml").write_text(text)
    assert load_recipe(tmp_path / "r.yaml").as_data() == facts_of(out)["recipe"]
    assert "\n  - deduplicate: {method: exact}\n" in text
    assert "trial" not in text


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_is_read_back_from_its_card(out: Path, name: str, tmp_path: Path) -> None:
    recipe = json.loads(json.dumps(load_recipe(name).as_data()))
    (text,) = fences(tokens(render_card(out, facts_of(out, recipe=recipe))), "yaml")
    (tmp_path / "r.yaml").write_text(text)
    assert load_recipe(tmp_path / "r.yaml").as_data() == recipe


def test_a_huge_recipe_is_cut_and_says_so(out: Path) -> None:
    recipe = {**facts_of(out)["recipe"], "summary": "word, " * 50_000}
    (text,) = fences(tokens(render_card(out, facts_of(out, recipe=recipe))), "yaml")
    assert len(text) < 21_000
    assert text.endswith("# cut here: the whole recipe is curate/recipe.yaml\n")


def test_the_distribution_tells_kept_from_rejected(out: Path, card: str) -> None:
    ledger = pq.read_table(out / "selection" / "ledger.parquet").to_pylist()
    for decision in ("kept", "rejected"):
        values = [row["given"]["value"] for row in ledger if row["decision"] == decision]
        assert f"| `given.value` | {decision} | 20 | {number(float(np.quantile(values, 0.05)))} |" in card
    (chart,) = (text for text in fences(tokens(card), "text") if "kept rows" in text)
    shares = re.findall(r"([\d.]+) %", chart)
    assert sum(map(float, shares)) == pytest.approx(200, abs=2)


def test_what_the_selection_follows_is_the_reports(out: Path, card: str) -> None:
    report = json.loads((out / "selection" / "selection.json").read_text())["report"]
    assert f"explains {100 * report['explained_by_length']:.1f} % of the decisions" in card
    assert ("mostly a choice by length and source" in card) is (report["explained_by_both"] > 0.5)


def test_errors_are_counted_before_and_after(tmp_path: Path) -> None:
    rows = [record(f"What is {n} + 1?", f"Answer: {n + 1 + n % 2}", gold=str(n + 1), value=n, id=str(n)) for n in range(20)]
    out = run_folder(tmp_path, "keep: {field: given.value, lowest: 50%}", rows=rows)
    card = render_card(out, facts_of(out))
    (line,) = (line for line in card.splitlines() if line.startswith("| `errors.wrong`"))
    assert line.endswith("| 10 | 5 | 50.0 % |")


def test_a_recipe_that_looks_for_no_errors_says_so(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: r\nfilters: {length: {}}\nsteps:\n  - keep: {field: length.words, highest: 50%}\n")
    out = curate.run(recipe, write_rows(tmp_path / "rows.jsonl", some_rows(8)), out=tmp_path / "out").out
    card = render_card(out, facts_of(out, columns={"length_words": "length.words"}))
    assert "did not look for errors" in card
    assert "none: this recipe asks no model" in card


def test_null_is_not_scored_and_never_zero(tmp_path: Path) -> None:
    rows = [{**row, "value": None} if place % 4 == 0 else row for place, row in enumerate(some_rows(40))]
    out = run_folder(tmp_path, rows=rows)
    card = render_card(out, facts_of(out))
    assert "`given` could not score 10 rows (`absent`); 10 of them were kept. Their scores are null, never 0." in card
    assert "Rows without a score stay, unless another step removes them." in card
    assert "| `given.value` | kept | 20 |" in card


def test_a_score_that_no_kept_row_has_is_not_scored(tmp_path: Path) -> None:
    rows = [{**row, "value": None if place % 2 else 1.0} for place, row in enumerate(some_rows(8))]
    out = run_folder(tmp_path, "drop: {field: given.value, above: 0}", rows=rows)
    card = render_card(out, facts_of(out))
    assert "| `given.value` | kept | 0 | not scored | not scored | not scored | not scored | not scored |" in card


def test_a_run_that_keeps_everything_has_nothing_to_explain(tmp_path: Path) -> None:
    out = run_folder(tmp_path, "drop: {field: given.value, above: 1000}")
    card = render_card(out, facts_of(out))
    assert "**40 of 40 rows**" in card
    assert "All rows met the same fate, so there is nothing to explain." in card
    assert "40 of 40 (100 %)" in card


def test_a_config_without_files_is_not_announced(out: Path) -> None:
    card = render_card(out, facts_of(out, files={"scores/train-00000-of-00001.parquet": {}}))
    assert [config["config_name"] for config in load_yaml(yaml_header(card))["configs"]] == ["scores"]


def test_refused_rows_are_told(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", some_rows(8))
    path.write_text(path.read_text() + "{broken\n")
    (tmp_path / "r.yaml").write_text("name: r\nfilters: {length: {}}\nsteps:\n  - keep: {field: length.words, highest: 50%}\n")
    out = curate.run(tmp_path / "r.yaml", path, out=tmp_path / "out").out
    assert "- 1 rows could not be read at all" in render_card(out, facts_of(out, columns={}))


def test_rows_without_sources_say_so(tmp_path: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "source"} for row in some_rows(8)]
    out = run_folder(tmp_path, rows=rows)
    card = render_card(out, facts_of(out))
    assert "| (no source) | 8 |" in card
    assert "The rows do not say who wrote them." in card


def test_sources_that_are_text_of_rows_are_not_named(tmp_path: Path) -> None:
    steps = ("drop: {field: given.value, above: 30}", "keep: {field: given.value, highest: 50%}")
    rows = [{**row, "source": f"secret{place % 2}"} for place, row in enumerate(some_rows(40))]
    out = run_folder(tmp_path, *steps, rows=rows)
    assert "secret1" in render_card(out, facts_of(out))
    card = render_card(out, facts_of(out, hashed=["source"]), with_examples=True)
    assert "secret" not in card
    assert "| `source 1` | 20 |" in card
    assert "Names of sources are withheld" in card


def test_reasons_that_are_withheld_are_only_counted(tmp_path: Path) -> None:
    rows = [{**row, "value": None} if place % 4 == 0 else row for place, row in enumerate(some_rows(40))]
    out = run_folder(tmp_path, rows=rows)
    card = render_card(out, facts_of(out, left_out=["given.unscored"]))
    assert "`given` could not score 10 rows (`withheld`); 10 of them were kept." in card
    assert "`absent`" not in card


def test_many_sources_are_summed_up(tmp_path: Path) -> None:
    rows = [{**row, "source": f"s{place:02}"} for place, row in enumerate(some_rows(40))]
    out = run_folder(tmp_path, rows=rows)
    card = render_card(out, facts_of(out))
    assert "| 10 more sources | 10 |" in card
    assert "and 10 more." in card


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("perplexity.ifd", "difficulty, `exp(content_nll - unconditional_nll)`, a ratio of perplexities; above 1"),
        ("ifd.loss_ratio", "`content_nll` over `unconditional_nll`, the ratio of losses that"),
        ("ifd.information", "`unconditional_nll - content_nll`, in nats per token"),
        ("perplexity.content_nll", "as nll, over the verbatim completion alone; nll is the mean negative log-likelihood"),
    ],
)
def test_what_a_score_is_stands_in_whole_code_spans(field: str, told: str) -> None:
    meaning = meaning_of(field)
    assert meaning is not None
    assert told in meaning
    assert "*" not in meaning


def test_positive_scores_over_a_wide_range_get_logarithmic_bins(out: Path) -> None:
    ledger = Ledger(out / "selection" / "ledger.parquet")
    values = np.geomspace(0.01, 100, ledger.count)
    counts = [one.kept + one.rejected for one in ledger.bins(values)]
    assert max(counts) <= 2 * ledger.count / BINS
    assert ledger.bins(-values)[1].low == pytest.approx(-np.quantile(values, 0.98))


def test_a_ranking_step_says_among_which_rows_it_ranked() -> None:
    step = {"keep": {"field": "given.value", "lowest": "50%", "within": ["prompt", "stratum"]}}
    among = "answers to one prompt; else rows of one source and like length"
    assert in_words(step) == f"of the rows compared ({among}), the half with the lowest `given.value` stay"
    assert "the `2` with the highest" in in_words({"best_of": {"field": "given.value", "highest": 2}})


# --- trial and calibration ---


def test_without_a_trial_the_card_says_that_none_was_run(card: str) -> None:
    assert "Not known. No trial was run" in card
    assert "| Tested by training | no |" in card


def test_the_trials_sentence_stands_on_the_card_whatever_it_is(out: Path, tmp_path: Path) -> None:
    run = copy_of(out, tmp_path)
    sentence = (
        "`curated` scored 3.1 points lower than `random` on x (95 % interval -6.0 to -0.2; 3 seeds, 50 items): the filter hurt."
    )
    data = trial_of(run)
    data["verdict"] = {"word": "hurt", "sentence": sentence, "reasons": ["fewer than 3 seeds"]}
    save_trial(run, data)
    card = render_card(run, facts_of(run))
    assert f"> **hurt**: {sentence}" in card
    assert "| Tested by training | hurt (2 seeds; see the caveats below) |" in card
    assert card.count("fewer than 3 seeds") == 1
    assert "No trial was run" not in card


def test_caveats_of_a_trial_stand_beside_its_word(out: Path, tmp_path: Path) -> None:
    run = copy_of(out, tmp_path)
    data = trial_of(run)
    effect = {"task": "plain", "word": "cannot tell", "difference": 0.02, "low": -0.03, "high": 0.07}
    data["contrasts"] = [{"kind": "trained", "treated": arm, "control": "base", **effect} for arm in ("random", "curated")]
    data["plan"] |= {"seeds": [0, 1], "training": {"steps": 12}}
    save_trial(run, data)
    card = render_card(run, facts_of(run))
    assert "- `random` and `curated` cannot be told from the untrained model: " in card
    assert "- the trial ran with other settings than the recipe says: `seeds` `2` where it says `5`; " in card
    assert "`steps` `12` where it says nothing" in card
    assert "| `curated` less `base` | cannot tell | +2.0 | -3.0 to +7.0 |" in card


def test_a_trial_as_the_recipe_says_has_no_caveats(out: Path, tmp_path: Path) -> None:
    run = copy_of(out, tmp_path)
    data = trial_of(run)
    data["scores"] = [{**score, "strict": [0.5] * 5} for score in data["scores"]]
    recipe = facts_of(run)["recipe"]
    data["plan"] |= {"seeds": list(range(5)), "recipe": recipe, "training": recipe["trial"]["training"]}
    save_trial(run, data)
    card = render_card(run, facts_of(run))
    assert "| Tested by training | plain (5 seeds) |" in card
    assert "Caveats" not in card


def test_a_trial_of_other_steps_is_not_told(out: Path, tmp_path: Path) -> None:
    run = copy_of(out, tmp_path)
    save_trial(run, {**trial_of(run), "plan": {"recipe": {"steps": []}}})
    assert "No trial was run" in render_card(run, facts_of(run))


def test_other_trials_of_the_same_steps_are_not_hidden(out: Path, tmp_path: Path) -> None:
    run = copy_of(out, tmp_path)
    for number_, word in enumerate(("hurt", "helped")):
        data = {**trial_of(run), "trial": str(number_), "verdict": {"word": word, "sentence": f"It {word}.", "reasons": []}}
        save_trial(run, data)
    card = render_card(run, facts_of(run))
    assert "> **helped**: It helped." in card
    assert "- Another trial of the same steps: It hurt." in card


def test_the_trial_that_is_published_is_the_one_told_of(out: Path, tmp_path: Path) -> None:
    run = copy_of(out, tmp_path)
    for number_, word in enumerate(("hurt", "helped")):
        data = {**trial_of(run), "trial": str(number_), "verdict": {"word": word, "sentence": f"It {word}.", "reasons": []}}
        save_trial(run, data)
    assert "> **hurt**: It hurt." in render_card(run, facts_of(run, trial="small-0"))
    assert "No trial was run" in render_card(run, facts_of(run, trial=None))


def test_a_judged_trial_is_printed_as_it_was_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "trials"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folders = importlib.import_module("trial_folders")
    from curate.trials.judging import judge_trial

    out = run_folder(tmp_path)
    recipe = facts_of(out)["recipe"]
    tasks = [folders.answer_task(tmp_path)]
    trial = folders.answered_trial(out, tasks, {"curated": [9, 8, 9], "random": [2, 3, 2]}, recipe=recipe)
    report = judge_trial(trial, tasks, folders.facts_of(recipe="small"))
    save_trial(out, dict(report.data))
    card = render_card(out, facts_of(out))
    assert str(prose(report.sentence)) in card
    assert report.word in card


def test_calibration_is_told_with_its_interval_and_its_lack_too(out: Path, tmp_path: Path) -> None:
    run = copy_of(out, tmp_path)
    decision = json.loads((run / "selection" / "selection.json").read_text())
    steps = [{"drop": {"field": f"detectors.{name}", "above": 1.0}} for name in ("lrr", "log_rank")]
    report = {**decision["report"], "calibration": {"detectors.lrr": {"auroc": 0.875, "found_at_1": 0.25}}}
    edit_json(run / "selection" / "selection.json", {"recipe": {**decision["recipe"], "steps": steps}, "report": report})
    figures = {"auroc_interval": [0.85, 0.9], "found_at_1_interval": [0.2, 0.3], "human_rows": 100, "machine_rows": 200}
    (run / "calibration.json").write_text(json.dumps({"format": 1, "detectors": {"detectors.lrr": figures}}))
    card = render_card(run, facts_of(run))
    assert "How good the detectors are" in headings(tokens(card))
    assert "in 87.5 % of pairs (95 % interval 85 % to 90 %)" in card
    assert "on 100 human-written and 200 machine-written rows" in card
    assert "- `detectors.log_rank` was not calibrated on rows of known origin" in card


# --- examples, determinism, paths ---


def test_example_rows_stand_on_the_card_only_when_asked_for(out: Path, card: str) -> None:
    assert "Example rows" not in card
    shown = render_card(out, facts_of(out), with_examples=True)
    assert "Example rows" in headings(tokens(shown))
    kept = [row["row"] for row in pq.read_table(out / "selection" / "ledger.parquet").to_pylist() if row["decision"] == "kept"]
    assert [int(row) for row in re.findall(r"^Row (\d+), source", shown, re.MULTILINE)] == [kept[0], kept[9], kept[-1]]


def test_the_same_run_has_the_same_card_wherever_it_lies(out: Path, tmp_path: Path) -> None:
    run = copy_of(out, tmp_path)
    first, second = (render_card(folder, facts_of(folder), repo="a/b", with_examples=True) for folder in (out, run))
    assert first == second
    assert str(tmp_path) not in first
    assert str(out.parent) not in first


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("against /home/me/eval.jsonl above 0.5", "against eval.jsonl above 0.5"),
        ("run with --out /tmp/a/b", "run with --out b"),
        (r"C:\Users\me\model", "model"),
        ("~/models/x/", "x"),
        ("answers between /think and /no_think", "answers between /think and /no_think"),
        ("a/b and/or https://x.org/y 1/2", "a/b and/or https://x.org/y 1/2"),
    ],
)
def test_paths_of_a_machine_lose_all_but_their_last_name(text: str, told: str) -> None:
    assert without_paths(text) == told


def test_no_path_of_the_recipe_is_published(out: Path) -> None:
    recipe = facts_of(out)["recipe"]
    recipe["filters"] = {**recipe["filters"], "learned_detector": {"load": "/home/somebody/detector"}}
    card = render_card(out, facts_of(out, recipe=recipe))
    assert "somebody" not in card
    assert "detector" in card


def test_a_local_model_is_named_without_its_path(out: Path, tmp_path: Path) -> None:
    run = copy_of(out, tmp_path)
    lock = json.loads((run / "lock.json").read_text())
    entry = lock["annotations"]["given"]
    entry["fingerprint"]["model"] = {"weights": "0123456789abcdef", "tokenizer": "x"}
    entry["fingerprint"]["observer"] = {"weights": "fedcba9876543210", "tokenizer": "x"}
    entry["fingerprint"] |= {
        "chat_template": "the tokenizer's own",
        "dtype": "float32",
        "max_length": 1024,
        "normalise": ["a", "b"],
    }
    lock["annotations"]["length"]["fingerprint"]["depends"] = {"x": {"model": {"repository": "org/model", "revision": "f" * 40}}}
    edit_json(run / "lock.json", lock)
    edit_json(
        run / "annotations" / entry["folder"] / "plan.json",
        {"parameters": {"model": "/home/somebody/my-model", "observer": "/home/somebody/base"}},
    )
    card = render_card(run, facts_of(run))
    assert "a local model, `base` with weights `fedcba987654`" in card
    settings = "chat template: the tokenizer's own, in `float32`, at most 1,024 tokens a row, after stripping `a, b`"
    assert f"asked by `given` ({settings})." in card
    assert "a local model, `my-model` with weights `0123456789ab`" in card
    assert "[`org/model`](https://huggingface.co/org/model) at revision `ffffffffffff`" in card
    assert "somebody" not in card


# --- the one place ---


def test_the_template_refuses_what_is_not_inert(out: Path) -> None:
    from curate.hub_cards.context import card_context

    context = card_context(out, facts_of(out), repo=None, license=None, with_examples=False)
    render(context)
    with pytest.raises(TypeError, match="inert"):
        render({**context, "title": "a plain string"})
    with pytest.raises(TypeError, match="inert"):
        render({**context, "repo": 7})


def test_a_table_refuses_cells_that_are_not_inert() -> None:
    with pytest.raises(AssertionError):
        table(["a"], [["plain"]])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "not scored"), (float("nan"), "not scored"), (float("inf"), "not scored"), (0, "0"), (0.0, "0"), (-0.0, "0"),
        (True, "yes"), (1234567, "1,234,567"), (1234.5, "1,234"), (0.012345, "0.0123"), (12.3456, "12.3"), (999.9, "1,000"),
    ],
)  # fmt: skip
def test_numbers_have_one_form(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 9, "0 %"), (9, 9, "100 %"), (1, 10**6, "under 0.1 %"), (10**6 - 1, 10**6, "over 99.9 %"), (1, 3, "33.3 %"), (0, 0, "–")],
)
def test_a_share_is_none_or_all_only_where_it_is(part: int, whole: int, text: str) -> None:
    assert share(part, whole) == text


def test_bars_stay_in_their_bounds() -> None:
    assert [len(bar(part, cells=4)) for part in (-1.0, 0.0, 0.5, 1.0, 2.0)] == [0, 0, 2, 4, 4]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Keep the half that is familiar (50 %).", "Keep the half that is familiar (50 %)."),
        ("`drop x.y is true` rejects 5 rows", "`drop x.y is true` rejects 5 rows"),
        ("see content_nll, or *that*.", "see `content_nll`, or `*that*`."),
        ("`a``b`", "`a` `b`"),
        ("1. first", "`1`. first"),
        ("- item", "`-` item"),
        ("Ärger über Größe – naïve 日本語", "Ärger über Größe – naïve 日本語"),
    ],
)
def test_prose_stays_readable(text: str, told: str) -> None:
    assert prose(text) == told


def test_code_spans_outlast_their_content() -> None:
    assert code("a`b``c") == "```a`b``c```"
    assert code("`") == "`` ` ``"
    assert code(" \n ") == "(empty)"


def test_the_packages_own_imports_are_light() -> None:
    done = python(
        "import sys, curate.hub_cards; print([m for m in ('jinja2', 'pyarrow', 'torch', 'ruamel') if m in sys.modules])"
    )
    assert done.out.strip() == "[]", done.out


def test_the_body_names_both_papers(card: str) -> None:
    assert "2402.11192" in body(card)
    assert "2407.12835" in body(card)
