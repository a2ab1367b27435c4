"""Kept rows in the layouts of other trainers come back by those trainers' own rules, and nothing is dropped silently."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_publications import small_bundle, small_run
from workshop import python, tree

from curate import _fs
from curate.errors import InputError, IntegrityError, UsageError
from curate.publication import export, open_publication
from curate.publication.exporting import LAYOUTS, Exported
from curate.reference import model_path

ALL = "drop: {field: length.words, above: 10000}"


def chat(*turns: str, system: str | None = None) -> dict[str, Any]:
    """A row of turns that alternate, ending with the assistant's."""
    roles = ["user", "assistant"] * len(turns)
    messages = [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]
    return {"messages": ([{"role": "system", "content": system}] if system is not None else []) + messages}


CHATS = [
    chat("2024-01-01", "1999-12-31"),
    chat("What is 1 + 1?", "2", system="Be brief."),
    chat("a", "b", "c", "the last answer"),
    chat('tricky "quotes" \\ and \u2028 lines\nand {{ braces }}', "ü 漢字 🎈 \x1b[31m"),
    chat("s", "  leading and trailing  "),
]
ODD = [
    {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]},
    chat("an empty answer", ""),
    chat("x", "y", system=""),
]


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("chats"), rows=CHATS, steps=[ALL], filters="{length: {}}")


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("odd"), rows=CHATS + ODD, steps=[ALL], filters="{length: {}}")


@pytest.fixture(scope="module")
def strings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of strings, and its publication in `bundle` beside it."""
    folder = tmp_path_factory.mktemp("strings")
    small_bundle(folder)
    return folder


def lines(found: Exported) -> list[dict[str, Any]]:
    text = (found.folder / found.files[0]).read_text("utf-8")
    return [json.loads(line) for line in text.split("\n")[:-1]]


def plain(row: dict[str, Any]) -> list[dict[str, str]]:
    """The conversation without what a layout adds."""
    return [{"role": message["role"], "content": message["content"]} for message in row["messages"]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_kept_row_is_written_or_refused(odd: Path, tmp_path: Path, layout: str) -> None:
    found = export(odd, layout, tmp_path / "export")
    kept = _fs.read_json(odd / "selection" / "selection.json")["kept_rows"]
    assert found.rows + sum(map(len, found.refused.values())) == kept == len(CHATS + ODD)
    assert found.rows == len(lines(found))
    assert found.to_dict()["refused"] == {why: {"count": len(rows), "rows": rows} for why, rows in found.refused.items()}
    assert json.loads(json.dumps(found.to_dict()))["layout"] == layout


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_publication_is_written_as_its_run_is(strings: Path, tmp_path: Path, layout: str) -> None:
    one, two = (export(strings / name, layout, tmp_path / name / "data") for name in ("out", "bundle"))
    assert tree(one.folder / one.files[0]) == tree(two.folder / two.files[0])
    assert lines(one) == lines(two)
    assert one.rows == two.rows == 20


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_what_the_layout_knows_is_written(strings: Path, tmp_path: Path, layout: str) -> None:
    found = export(strings / "bundle", layout, tmp_path / "export")
    known = {"prompt", "completion"} if layout == "trl" else {"messages"}
    assert {key for row in lines(found) for key in row} == known
    assert "human" not in (found.folder / found.files[0]).read_text()


def test_trl_reads_the_rows_that_were_published(strings: Path, chats: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    found = export(strings / "bundle", "trl", tmp_path / "strings")
    back = load_dataset("json", data_files=str(found.folder / "train.jsonl"), split="train", cache_dir=str(tmp_path / "cache"))
    kept = open_publication(strings / "bundle").kept().select(["prompt", "completion"]).to_pylist()
    assert back.to_list() == kept
    assert lines(export(chats, "trl", tmp_path / "chats")) == [
        {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in CHATS
    ]
    assert found.notes == []


def test_trl_tells_its_columns(chats: Path, tmp_path: Path) -> None:
    """As SFTTrainer looks at them: prompt and completion, conversational or not."""
    from trl import is_conversational

    found = export(chats, "trl", tmp_path / "export")
    assert all(is_conversational(row) for row in lines(found))


def test_axolotl_trains_the_last_answer_alone(chats: Path, tmp_path: Path) -> None:
    from ruamel.yaml import YAML

    found = export(chats, "axolotl", tmp_path / "export")
    config = YAML(typ="safe").load((found.folder / "axolotl.yaml").read_text())
    (dataset,) = config["datasets"]
    assert (found.folder / dataset["path"]).is_file()
    assert (dataset["type"], dataset["ds_type"], config["chat_template"]) == ("chat_template", "json", "tokenizer_default")
    # The trainer's rule: a turn's own flag goes before the roles.
    role, content = (dataset["message_property_mappings"][key] for key in ("role", "content"))
    for row, source in zip(lines(found), CHATS, strict=True):
        turns = row[dataset["field_messages"]]
        assert [{"role": turn[role], "content": turn[content]} for turn in turns] == source["messages"]
        assert [turn[dataset["message_field_training"]] for turn in turns] == [False] * (len(turns) - 1) + [True]


def llama_factory(folder: Path) -> list[tuple[str, list[dict[str, str]]]]:
    """What its sharegpt converter makes of the folder: system prompt and aligned turns; it skips rows that do not alternate."""
    ((_, entry),) = json.loads((folder / "dataset_info.json").read_text()).items()
    tags, found = entry["tags"], []
    assert entry["formatting"] == "sharegpt"
    for line in (folder / entry["file_name"]).read_text("utf-8").split("\n")[:-1]:
        messages, system = json.loads(line)[entry["columns"]["messages"]], ""
        if messages[0][tags["role_tag"]] == tags["system_tag"]:
            system, messages = messages[0][tags["content_tag"]], messages[1:]
        wanted = [tags["user_tag"], tags["assistant_tag"]] * (len(messages) // 2)
        assert [message[tags["role_tag"]] for message in messages] == wanted
        found.append((system, messages))
    return found


def test_llama_factory_takes_every_row_that_is_written(odd: Path, tmp_path: Path) -> None:
    found = export(odd, "llama-factory", tmp_path / "export")
    read = llama_factory(found.folder)
    assert read[1] == ("Be brief.", CHATS[1]["messages"][1:])
    assert len(read) == found.rows == 6
    assert found.refused == {"turns do not alternate between user and assistant": [5], "empty completion": [6]}
    assert any("mask_history" in note for note in found.notes)


def openai_problem(row: dict[str, Any]) -> str | None:
    """The checks that its fine-tuning guide gives."""
    messages = row.get("messages")
    if not messages:
        return "missing_messages_list"
    for message in messages:
        if any(key not in ("role", "content", "weight") for key in message):
            return "message_unrecognized_key"
        if message.get("role") not in ("system", "user", "assistant"):
            return "unrecognized_role"
        if not isinstance(message.get("content"), str) or not message["content"]:
            return "missing_content"
        if "weight" in message and (message["role"] != "assistant" or message["weight"] not in (0, 1)):
            return "weight"
    return None if messages[-1]["role"] == "assistant" else "example_missing_assistant_message"


def test_openai_takes_every_row_that_is_written(odd: Path, tmp_path: Path) -> None:
    found = export(odd, "openai", tmp_path / "export")
    assert [openai_problem(row) for row in lines(found)] == [None] * found.rows
    assert found.refused == {"empty completion": [6], "an empty turn": [7]}
    assert [plain(row) for row in lines(found)] == [row["messages"] for row in [*CHATS, ODD[0]]]
    weights = [message.get("weight") for message in lines(found)[2]["messages"]]
    assert weights == [None, 0, None, None]  # earlier answers are context, as they were when the last one was scored
    assert any("fewer than 10 rows" in note for note in found.notes)


def test_strings_that_become_a_chat_are_said_to_be_other_tokens(strings: Path, tmp_path: Path) -> None:
    found = export(strings / "out", "openai", tmp_path / "export")
    assert plain(lines(found)[0])[0]["role"] == "user"
    assert any("scored as plain text" in note for note in found.notes)


def test_the_order_of_the_selection_is_kept(tmp_path: Path) -> None:
    out = small_run(tmp_path, steps=["order: {field: given.value, first: highest}"])
    found = export(out, "trl", tmp_path / "export")
    kept = _fs.read_table(out / "selection" / "kept" / "part-00000.parquet")
    assert [row["completion"] for row in lines(found)] == kept["completion"].to_pylist()


def test_an_export_replaces_an_export_and_nothing_else(strings: Path, tmp_path: Path) -> None:
    into = tmp_path / "export"
    export(strings / "out", "llama-factory", into)
    found = export(strings / "out", "llama-factory", into)
    assert sorted(path.name for path in into.iterdir()) == sorted(found.files) == ["dataset_info.json", "train.jsonl"]
    (into / "mine.txt").write_text("x")
    before = tree(into)
    with pytest.raises(UsageError, match=r"holds 'mine.txt', which is not of an export"):
        export(strings / "out", "trl", into)
    assert tree(into) == before


@pytest.mark.parametrize(("first", "second"), [("axolotl", "llama-factory"), ("openai", "trl"), ("trl", "openai")])
def test_an_export_of_another_layout_is_not_replaced(strings: Path, tmp_path: Path, first: str, second: str) -> None:
    export(strings / "out", first, tmp_path / "export")
    before = tree(tmp_path / "export")
    with pytest.raises(UsageError, match=rf"holds an export that is not of the layout {second}; choose a new"):
        export(strings / "out", second, tmp_path / "export")
    assert tree(tmp_path / "export") == before


def test_what_cannot_be_exported_is_refused(strings: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown layout 'axolot'; did you mean 'axolotl'\?"):
        export(strings / "out", "axolot", tmp_path / "x")
    with pytest.raises(UsageError, match="holds neither a selection nor a publication; name a run's folder"):
        export(tmp_path, "trl", tmp_path / "x")
    with pytest.raises(UsageError, match="no such folder"):
        export(tmp_path / "nowhere", "trl", tmp_path / "x")
    with pytest.raises(UsageError, match="--revision is for the Hub"):
        export(strings / "out", "trl", tmp_path / "x", revision="main")
    assert not (tmp_path / "x").exists()


def test_where_no_row_can_be_written_nothing_is(tmp_path: Path) -> None:
    out = small_run(tmp_path, rows=[chat("q", ""), chat("r", "")], steps=["sample: {keep: 100%}"], filters="{}")
    with pytest.raises(InputError, match=r"not one row can be written in the layout openai \(2 empty completion\)"):
        export(out, "openai", tmp_path / "export")
    assert not (tmp_path / "export").exists()
    assert list(tmp_path.glob(".tmp.*")) == []


def test_a_damaged_run_is_not_exported(tmp_path: Path) -> None:
    out = small_run(tmp_path)
    path = out / "selection" / "kept" / "part-00000.parquet"
    raw = bytearray(path.read_bytes())
    raw[200] ^= 1
    path.write_bytes(raw)
    with pytest.raises(IntegrityError, match="not what was committed"):
        export(out, "trl", tmp_path / "export")


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A publication of rows that the packaged model has scored."""
    folder = tmp_path_factory.mktemp("scored")
    steps = ["keep: {field: perplexity.content_nll, lowest: 50%}"]
    filters = "{perplexity: {model: target}}"
    return small_bundle(folder, rows=16, steps=steps, filters=filters, model=str(model_path())).folder


@pytest.mark.repository
def test_the_example_trains_on_a_publication(scored: Path, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "examples" / "train_on_curated.py"
    options = [
        "--dataset",
        scored,
        "--model",
        model_path(),
        "--out",
        tmp_path / "trained",
        "--max-steps",
        2,
        "--batch",
        2,
        "--cpu",
    ]
    done = subprocess.run(
        [sys.executable, script, *map(str, options)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "trained on 8 rows of" in done.stdout
    assert (tmp_path / "trained" / "adapter_model.safetensors").is_file()


def test_the_tokens_that_train_are_those_that_were_scored(scored: Path, tmp_path: Path) -> None:
    """In a process of its own, since the trainer warns of what it does itself."""
    code = """
import json, sys
from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer
folder, model, out = sys.argv[1:]
rows = load_dataset(folder, split="train")
settings = SFTConfig(output_dir=out, use_cpu=True, bf16=False, report_to="none")
trainer = SFTTrainer(model=model, args=settings, train_dataset=rows, peft_config=LoraConfig())
batches = [trainer.data_collator([row]) for row in trainer.train_dataset]
print(json.dumps([int((batch["labels"] != -100).sum()) for batch in batches]))
"""
    done = python(code, str(scored), str(model_path()), str(tmp_path), HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hf"))
    assert done.code == 0, done.err
    publication = open_publication(scored)
    tokens = publication.scores()["perplexity_tokens"].to_pylist()
    assert json.loads(done.out.splitlines()[-1]) == [tokens[row] for row in publication.kept()["row"].to_pylist()]
