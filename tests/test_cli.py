"""The command line: exit codes, one line for a user's mistake, JSON on stdout, nothing from data obeyed by the terminal."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import CHAT_TEMPLATE, save_tiny_model
from workshop import Outcome, curate, finished, python, recipe_file, record, some_rows, write_rows

LENGTH = ["--recipe", "longest50"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "d.jsonl", some_rows(20))


@pytest.fixture
def out(tmp_path: Path, data: Path) -> Path:
    assert curate(*LENGTH, data, "--out", tmp_path / "out").code == 0
    return tmp_path / "out"


def mistake(done: Outcome, code: int, *words: str) -> None:
    """A user's mistake: this exit code, one line on stderr that holds these words, nothing on stdout."""
    assert done.code == code, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.err


# The pipeline without a name


def test_the_pipeline_needs_no_name(tmp_path: Path, data: Path) -> None:
    done = curate(*LENGTH, data, "--out", tmp_path / "out")
    assert done.code == 0
    assert "recipe longest50" in done.out
    assert (tmp_path / "out" / "selection" / "kept").is_dir()


def test_the_data_may_stand_first(tmp_path: Path, data: Path) -> None:
    assert curate(data, *LENGTH, "--out", tmp_path / "out").code == 0


def test_the_output_folder_is_called_after_the_data(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert curate(*LENGTH, "d.jsonl").code == 0
    assert (tmp_path / "curated" / "d" / "lock.json").is_file()


def test_a_file_called_like_a_command_is_given_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "select.jsonl", some_rows(8)).rename(tmp_path / "select")
    assert curate("./select", *LENGTH, "--out", "out").code == 0
    mistake(curate("select", *LENGTH, "--out", "out2"), 2, "DIR")


def test_a_misspelt_command_is_a_usage_error_that_names_the_nearest(tmp_path: Path) -> None:
    mistake(curate("slect", tmp_path), 2, "no command and no file 'slect'", "did you mean 'select'?")


def test_a_hub_id_is_never_taken_for_a_misspelt_command() -> None:
    done = curate("org/filters", *LENGTH, "--columns", "nonsense")
    assert "did you mean" not in done.err


def test_no_argument_at_all_shows_how_to_begin() -> None:
    done = curate()
    assert done.code == 2
    assert "--recipe" in done.err


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_the_stages(flag: str) -> None:
    done = curate(flag)
    assert done.code == 0
    for name in ("annotate", "select", "explain", "preview", "quote", "filters", "recipes", "check", "verify"):
        assert name in done.out


def test_help_has_room_for_every_summary() -> None:
    assert "..." not in finished("--help", COLUMNS="80").out.partition("Commands:")[2]


def test_the_version_is_told() -> None:
    assert curate("--version").out.startswith("curate, version ")


# Mistakes


def test_a_recipe_that_needs_a_model_says_what_to_pass(data: Path, tmp_path: Path) -> None:
    mistake(curate("--recipe", "familiarity-top50", data, "--out", tmp_path / "o"), 2, "pass --model FOLDER_OR_HUB_ID")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--recipe", "longest50", "missing.jsonl"], 3, ["missing.jsonl"]),
        (["--recipe", "longest50", "empty.jsonl"], 3, ["empty.jsonl", "0 rows"]),
        (["--recipe", "longest50", "broken.jsonl"], 3, ["broken.jsonl"]),
        (["--recipe", "longest50", "d.jsonl", "--columns", "prompt=nothing,completion=response"], 3, ["nothing"]),
        (["--recipe", "longest50", "d.jsonl", "--columns", "nonsense"], 2, ["nonsense"]),
        (["--recipe", "longest50", "d.jsonl", "--columns", "promt=prompt"], 2, ["promt"]),
        (["--recipe", "longest50", "d.jsonl", "--limit", "0"], 2, ["--limit"]),
        (["--recipe", "longest50", "d.jsonl", "--split", "train"], 2, ["split"]),
        (["--recipe", "longest50", "d.jsonl", "--revision", "main"], 2, ["revision"]),
        (["--recipe", "longest50", "d.jsonl", "--reuse", "missing"], 2, ["missing"]),
        (["--recipe", "longest50", "d.jsonl", "--reuse", "folder"], 2, ["holds no annotations"]),
        (["--recipe", "longest50", "d.jsonl", "--out", "d.jsonl"], 2, ["is a file"]),
        (["--recipe", "longest50", "d.jsonl", "--out", "d.jsonl/x"], 2, ["not writable"]),
        (["--recipe", "longest50", "d.jsonl", "--out", "folder"], 2, ["choose an empty or new folder"]),
        (["--recipe", "longest50", "d.jsonl", "--out", ""], 2, ["choose an empty or new folder"]),
        (["--recipe", "longest50", "d.jsonl", "--plugin", "missing.py"], 2, ["no such file"]),
        (["--recipe", "longest50", "d.jsonl", "--plugin", "d.jsonl"], 2, ["not a Python file"]),
        (["--recipe", "longest50", "d.jsonl", "--shard-rows", "1000001"], 2, ["--shard-rows"]),
        (["--recipe", "longest50", "-"], 3, ["standard input"]),
        (["d.jsonl"], 2, ["Missing option '--recipe'", "Shipped: ", "longest50", "or a YAML file"]),
        (["--recipe", "longest5", "d.jsonl"], 2, ["did you mean 'longest50'?"]),
        (["--recipe", "missing.yaml", "d.jsonl"], 2, ["no such recipe file"]),
        (["--recipe", "bad.yaml", "d.jsonl"], 2, ["bad.yaml", "not valid YAML"]),
        (["--recipe", "nothing.yaml", "d.jsonl", "--out", "o"], 3, ["nothing is left"]),
        (["select", "folder", "--recipe", "longest50"], 2, ["holds no finished rows"]),
        (["explain", "folder", "0"], 2, ["holds no selection"]),
        (["explain", "folder", "x"], 2, ["not a valid integer"]),
        (["verify", "folder"], 2, ["holds no finished rows"]),
        (["verify", "missing"], 2, ["does not exist"]),
        (["check", "longest5"], 2, ["did you mean"]),
        (["recipes", "longest5"], 2, ["did you mean"]),
        (["filters", "lenght"], 2, ["did you mean 'length'?"]),
        (["quote", "d.jsonl"], 2, ["--model"]),
        (["preview", "missing.jsonl"], 3, ["missing.jsonl"]),
        (["preview", "d.jsonl", "--model", "./missing"], 3, ["no such model folder"]),
        (["preview", "d.jsonl", "--model", "folder"], 3, ["no config.json"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line_and_an_exit_code(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text("{\n{\n")
    (tmp_path / "bad.yaml").write_text("steps: [}")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    recipe_file(tmp_path / "nothing.yaml", ["drop: {field: length.words, above: -1}"], filters="{length: {}}")
    mistake(curate(*arguments), code, *words)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["mine.txt"]


@pytest.fixture
def model(tmp_path: Path, tiny_model_dir: Path) -> Path:
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def scored(model: Path, *more: str) -> Outcome:
    data = write_rows(model.parent / "d.jsonl", some_rows(8))
    return curate("--recipe", "familiarity-top50", data, "--model", model, "--out", model.parent / "out", *more)


def test_a_model_without_weights_says_what_is_needed(model: Path) -> None:
    (model / "model.safetensors").unlink()
    mistake(scored(model), 3, "weights as *.safetensors are needed, found none")


def test_pickled_weights_are_never_loaded(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    mistake(scored(model), 3, "only pytorch_model.bin, which can run code when loaded")


def test_a_model_folder_without_tokenizer_is_a_mistake(model: Path) -> None:
    for path in model.glob("tokenizer*"):
        path.unlink()
    mistake(scored(model), 3, "tokenizer")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_model_config_is_a_mistake(model: Path, content: str) -> None:
    (model / "config.json").write_text(content)
    mistake(scored(model), 3, str(model))


def test_damaged_weights_are_a_mistake(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    mistake(scored(model), 3, str(model))


def test_a_tokenizer_without_end_of_sequence_is_a_mistake(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", chat_template=CHAT_TEMPLATE, eos=None)
    mistake(scored(model), 3, "eos_token")


def test_more_tokens_than_positions_are_a_mistake(model: Path) -> None:
    mistake(scored(model, "--max-length", "513"), 3, "513", "512 positions")


def test_a_missing_chat_template_is_a_mistake(model: Path) -> None:
    mistake(scored(model, "--chat-template", "missing.jinja"), 2, "missing.jinja")


def test_another_run_in_the_folder_is_a_mistake(out: Path, data: Path) -> None:
    from curate._fs import only_writer

    code = f"import sys; sys.argv = ['curate', *{['select', str(out), *LENGTH]!r}]; from curate.cli import main; main()"
    with only_writer(out):
        mistake(python(code), 2, f"in use by process {os.getpid()}")


def test_changed_data_is_a_mistake_that_names_it(out: Path, data: Path) -> None:
    write_rows(data, some_rows(19))
    mistake(curate(*LENGTH, data, "--out", out), 3, "was begun with other data")


def test_a_bug_keeps_its_traceback(tmp_path: Path, data: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from curate import Filter, register\n@register('buggy')\nclass Buggy(Filter):\n    outputs = {'x': 'bool'}\n"
        "    def score(self, example):\n        raise RuntimeError('a bug of mine')\n"
    )
    recipe = recipe_file(tmp_path / "r.yaml", ["drop: {field: buggy.x, is: true}"], filters="{buggy: {}}")
    with pytest.raises(RuntimeError, match="a bug of mine"):
        curate("--recipe", recipe, data, "--plugin", plugin, "--out", tmp_path / "out")


# Results


def test_json_is_on_stdout_and_progress_on_stderr(tmp_path: Path, data: Path) -> None:
    done = curate(*LENGTH, data, "--out", tmp_path / "out", "--json")
    assert done.json["rows"] == 20
    assert done.json["kept"] + done.json["rejected"] == 20
    assert "reading rows" in done.err


def test_every_report_is_json_when_asked(out: Path, data: Path, model: Path) -> None:
    for arguments in (
        ["annotate", data, *LENGTH, "--out", out],
        ["select", out, *LENGTH],
        ["explain", out, "3"],
        ["preview", data],
        ["preview", data, "--model", model],
        ["quote", data, "--model", model],
        ["filters"],
        ["filters", "perplexity"],
        ["recipes"],
        ["recipes", "clean"],
        ["check", "clean"],
        ["verify", out],
    ):
        done = curate(*map(str, arguments), "--json")
        assert done.code == 0, done.err
        assert done.json


def test_every_report_is_text_otherwise(out: Path, data: Path, model: Path) -> None:
    for arguments, word in (
        (["annotate", data, *LENGTH, "--out", out], "20 rows annotated"),
        (["select", out, *LENGTH], "recipe longest50"),
        (["explain", out, "3"], "completion:"),
        (["preview", data], "row 0"),
        (["preview", data, "--model", model], "tokens bear loss"),
        (["quote", data, "--model", model], "tokens/s"),
        (["filters"], "perplexity"),
        (["filters", "perplexity"], "Outputs:"),
        (["recipes"], "familiarity-top50"),
        (["check", "familiarity-top50"], "needs --model"),
        (["verify", out], "sound"),
    ):
        done = curate(*map(str, arguments))
        assert done.code == 0, done.err
        assert word in done.out


def test_a_printed_recipe_is_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(curate("recipes", "familiarity-top50").out)
    done = curate("check", tmp_path / "mine.yaml", "--json")
    assert done.json == curate("check", "familiarity-top50", "--json").json


def test_a_preview_marks_what_bears_loss(data: Path, tiny_model_dir: Path) -> None:
    done = curate("preview", data, "--model", tiny_model_dir, "--rows", "1")
    assert "⟦It is 1.⟧⟨<|im_end|>" in done.out


def test_an_explanation_says_which_step_and_by_how_much(out: Path) -> None:
    entries = [curate("explain", out, str(row), "--json").json for row in range(20)]
    rejected = next(entry for entry in entries if entry["decision"] == "rejected")
    text = curate("explain", out, str(rejected["row"])).out
    assert f"rejected by `{rejected['rejected_by']}`" in text
    assert "margin" in text


NASTY = "\x1b]0;owned\x07\x1b[2J\u202e\x00\x9b31m[bold]x[/bold]"


def test_what_data_says_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    rows: list[Any] = [record(f"p{i // 2} {NASTY}", f"{NASTY} {i}", source=NASTY, id=NASTY, gold=NASTY) for i in range(8)]
    data = write_rows(tmp_path / "d.jsonl", [*rows, {"prompt": NASTY}])
    runs = [
        curate(*LENGTH, data, "--out", tmp_path / "out"),
        curate("explain", tmp_path / "out", "0"),
        curate("preview", data),
    ]
    for done in runs:
        assert done.code == 0
        assert not set("\x1b\x07\u202e\x00\x9b") & set(done.out + done.err)
    assert "[bold]x[/bold]" in runs[1].out
    for command in (["explain", str(tmp_path / "out"), "0"], ["preview", str(data)]):
        printed = curate(*command, "--json")
        assert printed.out.isascii()
        assert not set(printed.out) & set("\x1b\x07\x00\x7f")
        assert repr(NASTY)[1:-1] in repr(printed.json)  # and a parser reads them back as they were


def test_file_names_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    done = curate(*LENGTH, f"{tmp_path}/\x1b[2J.jsonl")
    assert done.code == 3
    assert "\x1b" not in done.err


def test_an_ascii_terminal_is_written_to_all_the_same(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "d.jsonl", [record("π", f"naïve 🦊 {i}", source="é") for i in range(4)])
    ascii_ = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    done = finished("preview", data, **ascii_)
    assert done.code == 0, done.err
    assert r"na\xefve \U0001f98a" in done.out


def test_a_reader_that_leaves_early_is_no_bug(out: Path) -> None:
    code = "import sys; sys.argv = ['curate', 'filters', '--json']; from curate.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", f"import os\n{code}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    process.stdout.close()
    assert process.stderr
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    assert process.wait() != 0


def test_numbers_in_json_are_those_of_the_ledger(out: Path) -> None:
    entry = curate("explain", out, "5", "--json").json
    assert entry["length"]["characters"] == len(some_rows(20)[5]["response"])
    assert json.dumps(entry, allow_nan=False)
