"""The report as a file: whole, self-contained, true to the run, the same every time, and inert whatever the rows say."""

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from report_runs import SHOWN, Page, hostile_run, plain_run
from workshop import recipe_file, record, some_rows, tree, write_rows

import curate
from curate.errors import IntegrityError, UsageError
from curate.filters import Likelihood
from curate.likelihood import Rendered
from curate.reports import page, surprise, write_report
from curate.reports.browsing import chosen_rows
from curate.reports.figures import spearman
from curate.reports.proof import ticks
from curate.reports.run_data import RunData, data_sheet
from curate.reports.text import as_json, name_of, visible, without_paths


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_run(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def shown(plain: Path) -> Page:
    return Page(write_report(plain, plain.parent / "plain.html"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Page:
    out = hostile_run(tmp_path_factory.mktemp("hostile"))
    return Page(write_report(out))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged sample under the packaged model, which is there to be asked again."""
    return curate.run("familiarity-top50", out=tmp_path_factory.mktemp("sample") / "out", limit=200).out


def test_the_report_lies_in_the_runs_folder_unless_told_otherwise(plain: Path, tmp_path: Path) -> None:
    out = shutil.copytree(plain, tmp_path / "out")
    assert write_report(out) == out / "report.html"
    assert write_report(out, tmp_path / "new" / "r.html") == tmp_path / "new" / "r.html"
    assert (tmp_path / "new" / "r.html").read_bytes() == (out / "report.html").read_bytes()


def test_every_row_that_was_read_is_kept_or_rejected_or_refused(plain: Path, shown: Page) -> None:
    parts = [shown.figure(name) for name in ("refused", "rejected", "kept")]
    assert sum(parts) == shown.figure("rows read") == 200
    assert shown.figure("kept") == pq.read_table(plain / "selection" / "kept").num_rows


def test_refused_rows_are_counted_and_shown(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in some_rows(12)) + "{broken <b>\n")
    out = curate.run("random50", data, out=tmp_path / "out").out
    found = Page(write_report(out))
    assert (found.figure("refused"), found.figure("rows read")) == (1, 13)
    assert "Refused rows" in found.text


def test_good_signs_and_findings_of_format_do_not_look_like_defects(tmp_path: Path) -> None:
    rows = [record(f"Where is it? {n}", f"It is in Paris or so {n}", gold="Paris") for n in range(6)]
    recipe = recipe_file(tmp_path / "r.yaml", ["deduplicate: exact"], filters="{errors: {}}")
    out = curate.run(recipe, write_rows(tmp_path / "data.jsonl", rows), out=tmp_path / "out").out
    text = Page(write_report(out)).text
    defects, good = text.partition("Good signs Here true is better.")[::2]
    assert "errors.contains_gold" in good
    assert "errors.contains_gold gold is" not in defects
    assert "errors.strict_wrong A format finding, no error by itself:" in defects


def test_the_data_in_the_page_is_that_of_the_ledger(plain: Path, shown: Page) -> None:
    rows = shown.data["rows"]
    ledger = pq.read_table(plain / "selection" / "ledger.parquet").to_pylist()
    assert rows["row"] == [one["row"] for one in ledger]
    assert [at < 0 for at in rows["rejected_by"]] == [one["decision"] == "kept" for one in ledger]
    assert [None if at < 0 else rows["steps"][at] for at in rows["rejected_by"]] == [one["rejected_by"] for one in ledger]
    assert rows["numbers"]["given.value"] == [one["given"]["value"] for one in ledger]
    assert rows["margin"] == pytest.approx([one["margin"] for one in ledger])
    assert [rows["prompts"][at] for at in rows["prompt"]][:5] == [row["prompt"] for row in some_rows(5)]


def test_histograms_count_every_row_once(shown: Page) -> None:
    (score,) = shown.data["histograms"]
    assert np.array(score["kept"]).sum() == shown.figure("kept")
    assert np.array(score["rejected"]).sum() + np.array(score["unscored"]).sum() == shown.figure("rejected")
    assert score["cuts"] == [90.0]
    assert len(score["edges"]) == len(score["kept"][0]) + 1


def test_rows_without_a_score_are_counted_apart(tmp_path: Path) -> None:
    rows = [{**row, "value": None if at % 4 == 0 else row["value"]} for at, row in enumerate(some_rows(40))]
    (score,) = Page(write_report(plain_run(tmp_path, rows=rows))).data["histograms"]
    assert np.array(score["unscored"]).sum() == 10
    assert np.array(score["kept"]).sum() + np.array(score["rejected"]).sum() == 30


def test_what_steps_took_adds_up_by_source(plain: Path) -> None:
    from curate.reports.figures import waterfall

    found = waterfall(RunData(plain))
    assert found["stages"][-1]["left"] == sum(source["kept"] for source in found["sources"])
    for at, stage in enumerate(found["stages"][2:]):
        assert stage["removed"] == sum(source["by_step"][at] for source in found["sources"])


def test_equal_runs_give_equal_bytes(plain: Path, tmp_path: Path) -> None:
    other = shutil.copytree(plain, tmp_path / "elsewhere" / "moved")
    assert write_report(plain, tmp_path / "a.html").read_bytes() == write_report(other, tmp_path / "b.html").read_bytes()


def test_no_path_of_this_machine_is_in_the_page(plain: Path, shown: Page) -> None:
    assert str(plain.parent) not in shown.source
    assert str(Path.home()) + "/" not in shown.source
    assert str(Path(curate.__file__).parent) not in shown.source


def test_the_run_is_not_touched_but_for_the_report(plain: Path, tmp_path: Path) -> None:
    out = shutil.copytree(plain, tmp_path / "out")
    before = tree(out)
    write_report(out)
    assert {name: digest for name, digest in tree(out).items() if name != "report.html"} == before


def test_only_the_pages_own_script_and_style_may_run(shown: Page) -> None:
    (policy,) = [attributes["content"] or "" for tag, attributes in shown.elements if attributes.get("http-equiv")]
    for kind, element in (("script-src", "<script>"), ("style-src", "<style>")):
        body = shown.source.split(element, 1)[1].split(f"</{element[1:]}", 1)[0]
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_nothing_in_the_page_points_out_of_it(hostile: Page) -> None:
    for tag, attributes in hostile.elements:
        assert tag not in ("iframe", "base", "object", "embed", "form") or tag == "form"
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("src", "href", "action", "data", "srcset", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,"))


def test_the_script_never_writes_markup() -> None:
    script = (Path(page.__file__).parent / "report.js").read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(|fetch\(|XMLHttp|Storage", script
    )
    assert len(script.splitlines()) < 600


def test_hostile_text_adds_no_element(hostile: Page, shown: Page) -> None:
    assert {tag for tag, _ in hostile.elements} <= {tag for tag, _ in shown.elements} | {
        "title",
        "small",
        "svg",
        "rect",
        "li",
        "ul",
    }
    assert [tag for tag, _ in hostile.elements].count("script") == 2


def test_hostile_text_stands_in_the_page_as_it_is(hostile: Page) -> None:
    rows = hostile.data["rows"]
    assert len(SHOWN) >= 40
    for text in SHOWN:
        prompt = visible(f"{text} 0")
        assert prompt in rows["prompts"] or [prompt[: rows["cut"]], len(text) + 2] in rows["prompts"]
    # A chart for each of that many sources there is not, but those that there are are named as they are.
    assert all(visible(name) == name for name in hostile.data["sources"])
    assert set(rows["sources"]) >= {name_of(text) for text in SHOWN}


def test_no_invisible_character_reaches_the_page(hostile: Page) -> None:
    assert visible(hostile.source) == hostile.source


def test_a_hostile_recipe_is_shown_and_not_run(plain: Path, tmp_path: Path) -> None:
    out = shutil.copytree(plain, tmp_path / "out")
    path = out / "selection" / "selection.json"
    decision = json.loads(path.read_text())
    bad = "{{ 7 * 7 }}</title><script>window.hit = 1</script>\u202e"
    decision["recipe"] |= {"name": bad, "summary": bad, "source": bad}
    decision["report"] |= {
        "warnings": [bad, f"`{bad}` `"],
        "findings": {bad: {bad: bad}},
        "length_unit": bad,
        "refused": {bad: 1},
    }
    path.write_text(json.dumps(decision))
    found = Page(write_report(out))
    assert found.text.count("{{ 7 * 7 }}</title><script>window.hit = 1</script>\\u202e") >= 8
    assert [tag for tag, _ in found.elements].count("script") == 2


@pytest.mark.parametrize(
    "text", ["</script><script>x()</script>", "<!--", "]]>", "a\u2028b\u2029c", "\u202e", "&lt;", '"\\', "\x00", "\ud7ff", "😀"]
)
def test_json_in_the_page_round_trips(text: str) -> None:
    written = as_json({"text": text})
    assert json.loads(written) == {"text": text}
    assert not re.search("[<>&\u2028\u2029]", written)


def test_invisible_characters_are_written_out() -> None:
    assert visible("a\x1b[31m\u202eb\u200b\U000e0041\r\n\tc") == "a\\x1b[31m\\u202eb\\u200b\\U000e0041\n\tc"
    assert visible("👩\u200d💻 नमस्\u200cते") == "👩\u200d💻 नमस्\u200cते"


def test_paths_of_a_machine_are_cut_to_their_last_name() -> None:
    assert without_paths("model /home/ann/models/m1, 3/4 of C:\\Users\\ann\\x.txt") == "model m1, 3/4 of x.txt"
    assert without_paths("see https://example.org/a/b and a/b/c") == "see https://example.org/a/b and a/b/c"


def test_a_folder_without_a_selection_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no selection to report on; run `curate select") as error:
        write_report(tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "report.html").exists()


def test_no_rows_to_show_and_a_folder_as_target_are_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--examples 0"):
        write_report(plain, examples=0)
    with pytest.raises(UsageError, match="is a folder"):
        write_report(plain, tmp_path)


def test_a_ledger_that_disagrees_is_refused(plain: Path, tmp_path: Path) -> None:
    out = shutil.copytree(plain, tmp_path / "out")
    path = out / "selection" / "ledger.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(IntegrityError, match="run `curate select` again"):
        write_report(out)
    path.write_bytes(b"no parquet")
    with pytest.raises(IntegrityError, match="damaged or missing"):
        write_report(out)


def test_rows_without_source_and_with_everything_kept_are_reported(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n}", "response": f"r{n}", "value": 1.0} for n in range(8)]
    found = Page(write_report(plain_run(tmp_path, rows=rows, steps=("drop: {field: given.value, above: 5.0}",))))
    assert (found.figure("kept"), found.figure("rejected")) == (8, 0)
    assert found.data["sources"] == ["(no source)"]
    assert "Every row got the same decision" in found.text


def test_a_recipe_without_numbers_is_reported(tmp_path: Path) -> None:
    found = Page(write_report(plain_run(tmp_path, 20, steps=("deduplicate: exact",))))
    assert found.data["rows"]["score"] in (None, "given.value")
    out = curate.run("random50", tmp_path / "data.jsonl", out=tmp_path / "random").out
    found = Page(write_report(out))
    assert found.data["histograms"] == []
    assert "No filter of this recipe puts out a number." in found.text


def test_pictures_that_lack_a_score_say_which_filter_gives_it(shown: Page) -> None:
    assert [set(picture) for picture in shown.data["pictures"]] == [{"title", "missing"}] * 2
    assert "add the filters perplexity and self_bleu to the recipe" in shown.text


def test_a_sample_holds_every_source_and_step_and_says_so(plain: Path, tmp_path: Path) -> None:
    run = RunData(plain)
    rows = chosen_rows(run, 20, {3})
    assert len(rows) == 20
    assert 3 in rows
    assert set(zip(run.source, run.rejected_by, strict=True)) == set(zip(run.source[rows], run.rejected_by[rows], strict=True))
    assert "A sample of 20 of 200 rows" in Page(write_report(plain, tmp_path / "r.html", examples=20)).text


def test_long_texts_are_cut_with_a_note_and_the_page_stays_small(tmp_path: Path) -> None:
    rows = [{**row, "response": f"{row['response']} {'words ' * 30_000}"} for row in some_rows(120)]
    path = write_report(plain_run(tmp_path, rows=rows))
    assert path.stat().st_size < 1_000_000
    first = Page(path).data["rows"]["completion"][0]
    assert (len(first[0]), first[1] > 180_000) == (2_000, True)


def test_many_sources_share_a_chart(tmp_path: Path) -> None:
    rows = [{**row, "source": f"source {at % 60}"} for at, row in enumerate(some_rows(240))]
    data = Page(write_report(plain_run(tmp_path, rows=rows))).data
    assert len(data["sources"]) == 24
    assert data["sources"][-1] == "(37 other sources)"
    assert len(data["rows"]["sources"]) == 60


def test_tokens_of_chosen_rows_are_shaded_by_the_runs_own_model(sample: Path, tmp_path: Path) -> None:
    found = Page(write_report(sample, tmp_path / "r.html", surprise_rows=6))
    assert sum(1 for tag, attributes in found.elements if tag == "article") == 6
    assert "the packaged reference model" in found.text
    assert [picture.get("missing") is None for picture in found.data["pictures"]] == [False, False]


def test_a_tokens_surprise_sums_to_the_score_that_the_run_stores(sample: Path) -> None:
    run = RunData(sample)
    chosen = surprise.choose_surprise(run, 8)
    stored = run.column("perplexity.content_nll").values
    for row in surprise.shaded_rows(run, chosen, None)["rows"]:
        assert row["mean"] == pytest.approx(stored[row["row"]], rel=1e-2, abs=2e-3)
        assert sum(len(piece["text"]) for piece in row["tokens"]) > 0


@pytest.mark.parametrize("turns", ["last", "all"])
def test_stored_losses_of_tokens_are_shaded_without_the_model(
    turns: str, tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filters = f"{{perplexity: {{model: target, turns: {turns}}}, token_nll: {{model: target, turns: {turns}}}}}"
    recipe = recipe_file(tmp_path / "r.yaml", ["keep: {field: perplexity.content_nll, lowest: 50%}"], filters=filters)
    rows = [
        {"messages": [*talk, {"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]}
        for row in some_rows(40)
        for talk in ([], [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])
    ]
    out = curate.run(recipe, write_rows(tmp_path / "d.jsonl", rows), out=tmp_path / "out", model=str(tiny_model_dir)).out
    run = RunData(out)
    chosen = surprise.choose_surprise(run, 8)
    monkeypatch.setattr(surprise, "_is_stored", lambda _: False)
    scored = surprise.shaded_rows(run, chosen, None)
    monkeypatch.undo()
    monkeypatch.setattr(Likelihood, "engine", lambda _: pytest.fail("the model was loaded"))
    monkeypatch.setattr(surprise, "LARGEST", 0)
    stored = surprise.shaded_rows(run, chosen, None)
    assert (stored["is_stored"], scored["is_stored"]) == (True, False)
    assert len(stored["rows"]) == 8
    for one, other in zip(stored["rows"], scored["rows"], strict=True):
        assert [piece["text"] for piece in one["tokens"]] == [piece["text"] for piece in other["tokens"]]
        assert one["mean"] == pytest.approx(other["mean"], rel=1e-3, abs=2e-3)
        assert (
            "".join(piece["text"] for piece in one["tokens"]).strip()
            == run.rows.examples(run.rows.shards[0])[one["row"]].completion
        )
    assert "scored again" not in Page(write_report(out)).text
    monkeypatch.setattr(Rendered, "trained", 1)
    assert "the tokenizer no longer makes" in str(surprise.shaded_rows(run, chosen, None)["why_not"])


def test_shaded_text_is_the_completion(sample: Path) -> None:
    run = RunData(sample)
    for row in surprise.shaded_rows(run, surprise.choose_surprise(run, 8), None)["rows"]:
        shard = run.rows.shards[0]
        completion = run.rows.examples(shard)[row["row"]].completion
        assert "".join(piece["text"] for piece in row["tokens"]).strip() == completion.strip()


def test_a_model_that_changed_is_not_asked(sample: Path, tmp_path: Path) -> None:
    out = shutil.copytree(sample, tmp_path / "out")
    for plan in out.glob("annotations/*/plan.json"):
        facts = json.loads(plan.read_text())
        facts["parameters"]["model"] = str(tmp_path / "gone")
        plan.write_text(json.dumps(facts))
    found = Page(write_report(out))
    assert "No rows are shaded" in found.text
    assert str(tmp_path) not in found.source
    with pytest.raises(UsageError):
        surprise._filter(RunData(out), is_wanted=False)


def test_no_model_is_loaded_when_not_wanted(sample: Path, tmp_path: Path) -> None:
    assert "it was not asked for" in Page(write_report(sample, tmp_path / "r.html", surprise=False)).text


def test_steps_of_the_shading() -> None:
    assert [surprise.level(nll) for nll in (0.0, 0.1, 0.7, 9.9, 10.0, 99.0)] == [0, 1, 2, 8, 9, 9]


def test_the_data_sheet_tells_what_an_output_is() -> None:
    sheet = data_sheet("perplexity")
    assert sheet["nll"].startswith("mean negative log-likelihood")
    assert "mean negative log-likelihood" in sheet["content_nll"], "`as nll` alone tells a stranger nothing"
    assert data_sheet("no such filter") == {}


@pytest.mark.parametrize(
    ("y", "rho"), [([1, 2, 3, 4], 1.0), ([4, 3, 2, 1], -1.0), ([1, 1, 1, 1], 0.0), ([1, 1, 2, 2], 0.894427191)]
)
def test_rank_correlation(y: list[float], rho: float) -> None:
    assert spearman(np.arange(4.0), np.array(y, dtype=float)) == pytest.approx(rho)


def test_ticks_are_round() -> None:
    assert ticks(-3.2, 31.0) == [0, 10, 20, 30]
    assert ticks(-0.04, 0.05, 6) == [-0.04, -0.02, 0, 0.02, 0.04]


def finished_trial(out: Path, steps: Any, *, word: str = "helped") -> None:
    """A trial.json as `judge_trial` writes it, with two arms and a curve."""
    arm = {"seeds": [0, 1], "rows": 5, "steps": 4, "tokens": [10, 12], "held_out_nll": {}, "loss": [[[1, 2.0], [2, 1.0]]] * 2}
    contrast = {"kind": "primary", "treated": "curated", "control": "random-clean", "task": "t<b>", "word": word}
    power = {"source": "x", "seeds": 2, "items": 9, "detectable": None, "seeds_needed": {"0.02": None}}
    scores = {"lenient": [0.5, 0.6], "strict": [0.5, 0.6], "unread": [0.0, 0.1], "cut_off": [0.0, 0.0], "task": "t<b>"}
    folder = out / "trial" / "higher-1"
    folder.mkdir(parents=True)
    report = {
        "format": 1,
        "verdict": {"word": word, "sentence": f"`curated` {word} <i>really</i>", "reasons": ["look at /home/ann/x/y"]},
        "contrasts": [contrast | {"difference": 0.05, "low": 0.01, "high": 0.09}],
        "scores": [scores | {"arm": name} for name in ("curated", "random-clean")],
        "arms": [arm | {"arm": name} for name in ("curated", "random-clean")],
        "curves": [{"curve": "ordered", "share": share, "by_seed": [0.1, 0.3]} for share in (1.0, 0.5)],
        "primary": {"treated": "curated", "control": "random-clean", "task": "t<b>"},
        "plan": {"recipe": {"steps": steps}},
        "steps": [],
        "limits": [],
        "notices": [],
        "overlaps": [],
        "power": power,
        "protocol": "progressive",
        "learning_rate": 0.001,
        "recipe": "higher",
    }
    (folder / "trial.json").write_text(json.dumps(report))


def test_the_verdict_of_a_trial_of_these_steps_is_told(plain: Path, tmp_path: Path) -> None:
    out = shutil.copytree(plain, tmp_path / "out")
    finished_trial(out, RunData(out).recipe["steps"])
    found = Page(write_report(out))
    assert "helped curated helped <i>really</i>" in found.text
    assert "+5.0 (+1.0 to +9.0)" in found.text
    assert "look at y" in found.text
    assert "/home/ann" not in found.source
    curve, loss = found.data["charts"]
    assert curve["lines"] == [{"name": "ordered", "points": [[50, 20], [100, 20]], "seeds": [[10, 30], [10, 30]]}]
    assert loss["lines"][0]["points"] == [[1, 2], [2, 1]]


def test_a_trial_of_other_steps_is_no_verdict(plain: Path, tmp_path: Path) -> None:
    out = shutil.copytree(plain, tmp_path / "out")
    finished_trial(out, [{"deduplicate": {"method": "exact"}}])
    found = Page(write_report(out))
    assert "untested No trial has been run" in found.text
    assert "1 finished trial in this folder judged other steps." in found.text
