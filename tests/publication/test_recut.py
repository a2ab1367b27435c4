"""Another cut of a publication is the cut that the run itself would have made, or is refused with the reason."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_publications import small_bundle
from workshop import Record, recipe_file, record, some_rows, tree

from curate import _fs, load_recipe
from curate.annotations import load_annotations
from curate.errors import CurateError, InputError, IntegrityError, RecipeError, UsageError
from curate.examples import stable_hash
from curate.pipeline import select_again
from curate.publication import build, open_publication, recut, reproduce
from curate.publication.opened import FACTS
from curate.publication.recutting import HASHES
from curate.reference import model_path
from curate.selection import explain, select
from curate.verification import verify

FILTERS = "{given: {}, errors: {}, length: {}, near_duplicate: {}}"
WITH_REJECTED = {"with_rejected": True}
CUTS = {
    "half of each prompt": ["keep: {field: given.value, lowest: 50%, within: [prompt, stratum, dataset]}"],
    "a third": ["drop: {field: errors.fatal, is: true}", "keep: {field: given.value, highest: 33%, within: [source]}"],
    "best of": ["deduplicate: exact", "best_of: {field: given.value, lowest: 1}"],
    "bounds": ["drop: {field: length.words, above: 8, below: 3}", "drop: {field: given.flag, is: true}"],
    "near": ["deduplicate: near", "keep: {field: length.words, lowest: 20}"],
    "draw": ["sample: {keep: 30%, seed: 7, within: [stratum]}"],
    "mixture": ["mix: {shares: {human: 75%, gpt: 25%}, total: 16, field: given.value, short: refill}"],
    "curriculum": ["keep: {field: given.value, lowest: 60%}", "order: {field: given.value, first: highest}"],
    "shuffled": ["sample: {keep: 12}", "order: {random: 3}"],
}
TIGHT = ["drop: {field: errors.fatal, is: true}", "keep: {field: given.value, lowest: 30%, within: [prompt, dataset]}"]


def rows_with_copies(count: int) -> list[Record]:
    """Rows of which some are equal, some have no score, and all have columns of their own."""
    rows = some_rows(count)
    copies = [{**rows[3], "id": f"again{place}"} for place in range(3)]
    more = [{**row, "value": None if place % 11 == 5 else row["value"]} for place, row in enumerate(rows)]
    return [{**row, "flag": place % 5 == 0, "note": f"n{place}"} for place, row in enumerate(more + copies)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and its publication with rejected rows."""
    folder = tmp_path_factory.mktemp("made")
    small_bundle(folder, rows=rows_with_copies(80), filters=FILTERS, bundle=WITH_REJECTED)
    return folder


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without rejected rows."""
    folder = tmp_path_factory.mktemp("without")
    small_bundle(folder, rows=rows_with_copies(80), filters=FILTERS)
    return folder


def cut(tmp_path: Path, steps: list[str], *, filters: str = FILTERS, unscored: str = "keep") -> Path:
    return recipe_file(tmp_path / "cut.yaml", steps, filters=filters, unscored=unscored)


def kept(out: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(part) for part in sorted((out / "selection" / "kept").glob("*.parquet")))


def hashes(out: Path) -> list[str]:
    """Hash of every kept row's text, in order."""
    pairs = kept(out).select(["prompt", "completion"]).to_pylist()
    return [stable_hash([pair["prompt"], pair["completion"]]) for pair in pairs]


@pytest.mark.parametrize("unscored", ["keep", "drop"])
@pytest.mark.parametrize("steps", CUTS.values(), ids=CUTS)
def test_a_cut_of_the_publication_is_the_cut_of_the_run(made: Path, tmp_path: Path, steps: list[str], unscored: str) -> None:
    recipe = cut(tmp_path, steps, unscored=unscored)
    of_run = select(load_annotations(made / "out"), load_recipe(recipe))
    found = recut(made / "bundle", recipe, tmp_path / "recut")
    assert kept(found.out)["row"].to_pylist() == of_run.order.tolist()
    assert found.selection.rejected_by.tolist() == of_run.rejected_by.tolist()
    ours, theirs = found.report.to_dict(), of_run.report.to_dict()
    assert {name: ours[name] for name in ours if name != "findings"} == {
        name: theirs[name] for name in ours if name != "findings"
    }


@pytest.mark.parametrize("steps", CUTS.values(), ids=CUTS)
def test_its_files_are_those_that_select_writes(made: Path, tmp_path: Path, steps: list[str]) -> None:
    recipe = cut(tmp_path, steps)
    out = Path(shutil.copytree(made / "out", tmp_path / "run"))
    select_again(out, recipe)
    # Where the publication tells how the run was divided, the same bytes are kept.
    bundle = with_shards(Path(shutil.copytree(made / "bundle", tmp_path / "bundle")), out)
    found = recut(bundle, recipe, tmp_path / "recut")
    assert tree(found.out / "selection" / "kept") == tree(out / "selection" / "kept")
    lock, theirs = (_fs.read_json(folder / "lock.json") for folder in (found.out, out))
    assert all(lock[name] == theirs[name] for name in ("kept", "recipe", "recipe_hash", "seeds", "packages", "annotations"))
    one, two = (pq.read_table(folder / "selection" / "ledger.parquet") for folder in (found.out, out))
    assert one.drop_columns(["errors"]).equals(two.drop_columns(["errors"]))  # `errors.answer` is text and was left out


def with_shards(bundle: Path, out: Path) -> Path:
    facts: dict[str, Any] = json.loads((bundle / FACTS).read_text())
    facts["shards"] = [shard.stop for shard in load_annotations(out).rows.shards]
    _fs.commit_json(bundle / FACTS, facts)
    return bundle


def test_with_all_rows_the_folder_is_a_run_like_any_other(made: Path, tmp_path: Path) -> None:
    found = recut(made / "bundle", cut(tmp_path, CUTS["a third"]), tmp_path / "recut")
    assert found.is_whole
    assert verify(found.out).problems == []
    assert explain(found.out, 0)["completion"] == "It is 1."
    again = select_again(found.out, cut(tmp_path, CUTS["best of"]))
    assert again.report.kept == recut(made / "bundle", cut(tmp_path, CUTS["best of"]), tmp_path / "b").report.kept


def test_the_lock_says_where_the_rows_come_from(made: Path, tmp_path: Path) -> None:
    found = recut(made / "bundle", cut(tmp_path, CUTS["a third"]), tmp_path / "recut")
    source = _fs.read_json(found.out / "lock.json")["input"]
    original = _fs.read_json(made / "out" / "lock.json")
    assert (source["kind"], source["files"], source["split"]) == ("publication", [{"name": "bundle"}], "train")
    assert source["publication"]["sha256"] == _fs.sha256(made / "bundle" / FACTS)
    assert source["publication"]["of"] == {name: original[name] for name in ("input", "rows", "recipe_hash")}
    assert str(made) not in (found.out / "lock.json").read_text()


def test_a_tighter_cut_needs_no_rejected_rows(without: Path, tmp_path: Path) -> None:
    recipe = cut(tmp_path, TIGHT)
    found = recut(without / "bundle", recipe, tmp_path / "recut")
    of_run = select(load_annotations(without / "out"), load_recipe(recipe))
    assert kept(found.out)["row"].to_pylist() == of_run.order.tolist()
    assert found.report.kept == int(of_run.kept.sum()) < _fs.read_json(without / "bundle" / FACTS)["kept"]
    assert not found.is_whole
    assert not (found.out / "rows").exists()  # it does not claim to hold rows that it does not hold
    assert _fs.read_json(found.out / "lock.json")["files"].keys() == {"selection/selection.json"}
    assert _fs.read_table(found.out / HASHES).num_rows == 83
    shown = {row.completion for row in found.report.borderline}
    assert "(not published)" in shown


def test_a_looser_cut_is_refused_with_the_rows_that_it_lacks(without: Path, tmp_path: Path) -> None:
    recipe = cut(tmp_path, ["keep: {field: given.value, lowest: 75%, within: [prompt, dataset]}"])
    lacking = select(load_annotations(without / "out"), load_recipe(recipe)).kept
    lacking[kept(without / "out")["row"].to_numpy()] = False
    with pytest.raises(InputError) as caught:
        recut(without / "bundle", recipe, tmp_path / "recut")
    first = ", ".join(map(str, lacking.nonzero()[0][:10].tolist()))
    assert f"would keep {lacking.sum()} rows that were not published (rows {first}" in str(caught.value)
    assert "ask its owner to push with --with-rejected, or choose a cut inside the published one" in str(caught.value)
    assert not (tmp_path / "recut").exists()


def test_a_refused_cut_leaves_the_former_one_in_place(without: Path, tmp_path: Path) -> None:
    tight = cut(tmp_path, TIGHT)
    recut(without / "bundle", tight, tmp_path / "recut")
    before = tree(tmp_path / "recut")
    with pytest.raises(InputError):
        recut(without / "bundle", cut(tmp_path, CUTS["draw"]), tmp_path / "recut")
    assert tree(tmp_path / "recut") == before


@pytest.mark.parametrize(
    ("steps", "filters", "message"),
    [
        (["keep: {field: readability.words, lowest: 5}"], "{readability: {}}", "asks for the scores of readability"),
        (["keep: {field: self_bleu.self_bleu, lowest: 50%}"], "{self_bleu: {}}", "asks for the scores of self_bleu"),
        (["decontaminate: {against: test.jsonl}"], "{}", "asks for the scores of contamination (`decontaminate against"),
        (["drop: {field: errors.answer, is: '4'}"], "{errors: {}}", "reads errors.answer, which was left out of the push"),
        (
            ["keep: {field: length.words, lowest: 5}"],
            "{errors: {copies: 9}, length: {}}",
            "asks for the scores of errors with other",
        ),
    ],
)
def test_scores_that_were_not_published_are_named(
    made: Path, tmp_path: Path, steps: list[str], filters: str, message: str
) -> None:
    recipe = cut(tmp_path, steps, filters=filters)
    with pytest.raises(RecipeError) as caught:
        recut(made / "bundle", recipe, tmp_path / "recut")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "recut" / "selection").exists()


def test_a_run_of_its_own_is_not_overwritten(made: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(made / "out", tmp_path / "run"))
    before = tree(out)
    with pytest.raises(UsageError, match="holds a run of its own"):
        recut(made / "bundle", cut(tmp_path, CUTS["draw"]), out)
    assert tree(out) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="holds files that are not a run's"):
        recut(made / "bundle", cut(tmp_path, CUTS["draw"]), tmp_path / "mine")


def test_a_row_whose_text_was_exchanged_is_found(made: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(made / "bundle", tmp_path / "bundle"))
    path = bundle / "data/train-00000-of-00001.parquet"
    table = pq.read_table(path)
    row = table["row"][3].as_py()
    texts = table["completion"].to_pylist()
    texts[3] = texts[3] + "!" if isinstance(texts[3], str) else [{**texts[3][0], "content": "!"}]
    place = table.column_names.index("completion")
    pq.write_table(table.set_column(place, "completion", pa.array(texts, table["completion"].type)), path)
    facts = json.loads((bundle / FACTS).read_text())
    facts["files"]["data/train-00000-of-00001.parquet"] |= {"bytes": path.stat().st_size, "sha256": _fs.sha256(path)}
    _fs.commit_json(bundle / FACTS, facts)
    with pytest.raises(IntegrityError, match=rf"1 rows do not hold the text that was scored \(rows {row}\)"):
        recut(bundle, cut(tmp_path, CUTS["draw"]), tmp_path / "recut")


@pytest.mark.parametrize("rejected", [False, True])
def test_conversations_groups_and_typed_columns_come_back(tmp_path: Path, rejected: bool) -> None:
    def turns(place: int) -> dict[str, Any]:
        chat = [
            {"role": "user", "content": f"Q{place // 2}"},
            {"role": "assistant", "content": "hm"},
            {"role": "user", "content": "?"},
        ]
        answer = {"role": "assistant", "content": f"the answer number {place}"}
        return {
            "messages": [{"role": "system", "content": "be kind"}, *chat, answer],
            "value": place * 7 % 10,
            "topic": f"t{place // 4}",
        }

    steps = ["keep: {field: given.value, lowest: 50%, within: [prompt, dataset]}"]
    folder = tmp_path / "made"
    made = small_bundle(
        folder,
        rows=[turns(place) for place in range(24)],
        steps=steps,
        columns={"group": "topic"},
        bundle={"with_rejected": rejected},
    )
    tighter = cut(tmp_path, ["best_of: {field: given.value, lowest: 1}"], filters="{given: {}}")
    found = recut(made.folder, tighter, tmp_path / "recut")
    of_run = select(load_annotations(folder / "out"), load_recipe(tighter))
    assert kept(found.out)["row"].to_pylist() == of_run.order.tolist()
    select_again(folder / "out", tighter)
    assert kept(found.out).equals(kept(folder / "out"))


def test_a_prompt_of_a_system_message_alone_is_told_by_its_hash(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "system", "content": f"say {n}"}, {"role": "assistant", "content": f"{n}"}], "value": n}
        for n in range(8)
    ]
    made = small_bundle(tmp_path / "made", rows=rows, steps=["keep: {field: given.value, lowest: 50%}"], bundle=WITH_REJECTED)
    found = recut(
        made.folder, cut(tmp_path, ["keep: {field: given.value, lowest: 25%}"], filters="{given: {}}"), tmp_path / "recut"
    )
    assert found.report.kept == 2


def test_a_source_that_is_text_of_its_row_still_groups(tmp_path: Path) -> None:
    """Scores hold a hash of it, published rows the name; both are one source."""
    rows = [
        record(f"Q{n}", f"{('a very long wording', 'another long wording')[n % 2]} {n}", value=float(n * 7 % 20),
               source=("a very long wording", "another long wording")[n % 2])
        for n in range(20)
    ]  # fmt: skip
    made = small_bundle(tmp_path / "made", rows=rows, steps=["keep: {field: given.value, lowest: 50%, within: [source]}"])
    assert "source" in made.facts["hashed"]
    recipe = cut(tmp_path, ["keep: {field: given.value, lowest: 30%, within: [source]}"], filters="{given: {}}")
    found = recut(made.folder, recipe, tmp_path / "recut")
    of_run = select(load_annotations(tmp_path / "made" / "out"), load_recipe(recipe))
    assert kept(found.out)["row"].to_pylist() == of_run.order.tolist()
    assert set(kept(found.out)["source"].to_pylist()) == {"a very long wording", "another long wording"}


def test_an_ordered_publication_is_put_back_into_input_order(tmp_path: Path) -> None:
    made = small_bundle(
        tmp_path / "made", rows=rows_with_copies(60), filters=FILTERS, steps=CUTS["curriculum"], bundle=WITH_REJECTED
    )
    rows = open_publication(made.folder).kept()["row"].to_pylist()
    assert rows != sorted(rows)
    recipe = cut(tmp_path, CUTS["a third"])
    found = recut(made.folder, recipe, tmp_path / "recut")
    assert (
        kept(found.out)["row"].to_pylist()
        == select(load_annotations(tmp_path / "made" / "out"), load_recipe(recipe)).order.tolist()
    )


def test_self_bleu_of_rows_that_are_not_there_is_not_made_up(tmp_path: Path) -> None:
    steps = ["keep: {field: given.value, lowest: 50%}"]
    made = small_bundle(tmp_path / "made", steps=steps, filters="{given: {}, self_bleu: {}}")
    recipe = cut(tmp_path, ["keep: {field: given.value, lowest: 25%}"], filters="{given: {}, self_bleu: {}}")
    found = recut(made.folder, recipe, tmp_path / "recut")
    assert found.report.diversity is None
    assert any("self-BLEU before and after is not given" in warning for warning in found.report.warnings)


def test_a_model_that_is_not_here_is_not_looked_up(tmp_path: Path) -> None:
    """Without a path, and offline: what the publication and the recipe call by one name is one model."""
    filters = f"{{perplexity: {{model: {model_path()}}}}}"
    steps = ["keep: {field: perplexity.content_nll, lowest: 50%}"]
    made = small_bundle(tmp_path / "made", rows=12, filters=filters, steps=steps)
    name = made.facts["recipe"]["filters"]["perplexity"]["model"]
    assert name == model_path().name
    recipe = cut(tmp_path, [steps[0].replace("50%", "25%")], filters=f"{{perplexity: {{model: {name}}}}}")
    assert recut(made.folder, recipe, tmp_path / "recut").report.kept == 3
    other = cut(tmp_path, [steps[0].replace("50%", "25%")], filters="{perplexity: {model: ./another-model}}")
    with pytest.raises(RecipeError, match="asks for the scores of perplexity with other parameters"):
        recut(made.folder, other, tmp_path / "recut")


def test_lists_are_not_published_and_not_missed(tmp_path: Path) -> None:
    filters = f"{{token_nll: {{model: {model_path()}}}, turns: {{model: {model_path()}}}}}"
    steps = ["keep: {field: turns.worst_nll, lowest: 50%}"]
    made = small_bundle(tmp_path / "made", rows=12, filters=filters, steps=steps, bundle=WITH_REJECTED)
    columns = set(open_publication(made.folder).scores().column_names)
    assert {"turns_worst_nll", "turns_count", "token_nll_tokens"} <= columns
    assert not {"turns_turn_nll", "turns_turn_tokens", "token_nll_nll"} & columns
    assert reproduce(made.folder).passed
    other = cut(
        tmp_path, ["keep: {field: turns.last_nll, lowest: 25%}"], filters=filters.replace(str(model_path()), model_path().name)
    )
    found = recut(made.folder, other, tmp_path / "recut")
    assert found.report.kept == 3
    assert verify(found.out).problems == []


def test_a_cut_can_be_published_again_with_its_licence(tmp_path: Path) -> None:
    made = small_bundle(tmp_path / "made", bundle={"with_rejected": True, "license": "cc-by-4.0"})
    found = recut(made.folder, cut(tmp_path, CUTS["bounds"], filters="{given: {}, length: {}}"), tmp_path / "recut")
    again = build(found.out, tmp_path / "again", with_rejected=True)
    assert (again.facts["license"], again.facts["source"]["name"]) == ("cc-by-4.0", "bundle")
    assert reproduce(again.folder).passed


def vouched(bundle: Path, path: str, table: pa.Table | None = None) -> Path:
    """Another file, and a publication.json that speaks of it: somebody wrote this on purpose."""
    if table is not None:
        pq.write_table(table, bundle / path)
    facts: dict[str, Any] = json.loads((bundle / FACTS).read_text())
    facts.pop("seal", None)
    facts["files"][path] |= {"bytes": (bundle / path).stat().st_size, "sha256": _fs.sha256(bundle / path)}
    _fs.commit_json(bundle / FACTS, facts)
    return bundle


DATA, SCORES, LOCK = "data/train-00000-of-00001.parquet", "scores/train-00000-of-00001.parquet", "curate/lock.json"


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


@pytest.mark.parametrize(
    ("path", "change"),
    [
        (DATA, lambda t: t.drop_columns(["row"])),
        (DATA, lambda t: with_column(t, "row", pa.array([str(row) for row in t["row"].to_pylist()]))),
        (DATA, lambda t: with_column(t, "row", pa.array([None, *t["row"].to_pylist()[1:]], pa.int64()))),
        (DATA, lambda t: with_column(t, "row", pa.array([-1, *t["row"].to_pylist()[1:]], pa.int64()))),
        (DATA, lambda t: with_column(t, "row", pa.array([1 << 62, *t["row"].to_pylist()[1:]], pa.int64()))),
        (DATA, lambda t: with_column(t, "row", pa.array([t["row"][1].as_py(), *t["row"].to_pylist()[1:]], pa.int64()))),
        (DATA, lambda t: with_column(t, "prompt", pa.nulls(t.num_rows, pa.string()))),
        (DATA, lambda t: with_column(t, "prompt", pa.array([1] * t.num_rows))),
        (DATA, lambda t: with_column(t, "completion", pa.array([["x"]] * t.num_rows))),
        (DATA, lambda t: with_column(t, "source", pa.array([["x"]] * t.num_rows))),
        (DATA, lambda t: t.append_column("prompt", t["prompt"])),
        (DATA, lambda t: t.slice(0, 0)),
        (SCORES, lambda t: with_column(t, "row", pa.array(list(range(t.num_rows))[::-1]))),
        (SCORES, lambda t: with_column(t, "row_hash", pa.array(["../x"] * t.num_rows))),
        (SCORES, lambda t: with_column(t, "row_hash", pa.nulls(t.num_rows, pa.string()))),
        (SCORES, lambda t: with_column(t, "characters", pa.array([-5] * t.num_rows))),
        (SCORES, lambda t: with_column(t, "prompt_key", pa.nulls(t.num_rows, pa.string()))),
        (SCORES, lambda t: with_column(t, "given_flag", pa.array(["x"] * t.num_rows))),
    ],
)
def test_files_that_do_not_fit_together_are_refused_in_one_line(
    made: Path, tmp_path: Path, path: str, change: Callable[[pa.Table], pa.Table]
) -> None:
    bundle = Path(shutil.copytree(made / "bundle", tmp_path / "bundle"))
    vouched(bundle, path, change(pq.read_table(bundle / path)))
    with pytest.raises(CurateError) as caught:
        recut(bundle, cut(tmp_path, CUTS["bounds"]), tmp_path / "recut")
    assert str(bundle) in str(caught.value) or "cut: " in str(caught.value)
    assert not (tmp_path / "recut" / "selection").exists()


@pytest.mark.parametrize(
    "fingerprint",
    [
        None,
        [],
        {},
        {"filter": "../../x", "version": 1},
        {"filter": "given"},
        {"filter": "given", "version": "1"},
        {"filter": "x", "version": 1},
    ],
)
def test_a_lock_that_does_not_say_what_scores_are_is_refused(made: Path, tmp_path: Path, fingerprint: Any) -> None:
    bundle = Path(shutil.copytree(made / "bundle", tmp_path / "bundle"))
    lock = json.loads((bundle / LOCK).read_text())
    lock["annotations"]["given"] = {"fingerprint": fingerprint, "folder": "../../../elsewhere"}
    _fs.commit_json(bundle / LOCK, lock)
    vouched(bundle, LOCK)
    with pytest.raises(IntegrityError, match="does not say what the scores of given are"):
        recut(bundle, cut(tmp_path, CUTS["bounds"]), tmp_path / "recut")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "cut.yaml"]
