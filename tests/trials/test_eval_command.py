"""The user's own evaluation: what it is told, and what is read of what it writes."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from curate.errors import UsageError
from curate.trials.evaluation import EvalCommand, read_item_scores

NOTED = "import json, os, sys; json.dump([sys.argv[1:], {k: v for k, v in os.environ.items() if k.startswith('CURATE_')}], open('noted.json', 'w'));"
WRITES = "open(os.environ['CURATE_OUT'], 'w').write('{\"item\": 1, \"score\": 0.5}\\n')"


def python(code: str, *arguments: str) -> str:
    return " ".join(map(shlex.quote, [sys.executable, "-c", code, *arguments]))


def run(folder: Path, command: str, **given: Any) -> dict[str, float]:
    return EvalCommand(command).run(folder, **{"base": "b", "adapter": None, "model": None, **given})


def test_placeholders_and_environment_name_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = python(NOTED + WRITES, "{base}", "--a={adapter}", "{model}:{out}")
    found = run(tmp_path, command, base="org/base", adapter=tmp_path / "an adapter", model=tmp_path / "m")
    assert found == {"1": 0.5}
    words, environment = json.loads((tmp_path / "noted.json").read_text())
    out = str(tmp_path / "eval-command.jsonl")
    assert words == ["org/base", f"--a={tmp_path}/an adapter", f"{tmp_path}/m:{out}"]
    assert environment["CURATE_BASE"] == "org/base"
    assert environment["CURATE_OUT"] == out


def test_untrained_the_model_is_the_base_and_the_adapter_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(tmp_path, python(NOTED + WRITES, "{model}", "{adapter}"))
    assert json.loads((tmp_path / "noted.json").read_text())[0] == ["b", ""]


def test_no_shell_reads_the_command(tmp_path: Path) -> None:
    run(tmp_path, python("import os, sys; " + WRITES) + " ; touch shelled $(touch shelled)")
    assert not list(tmp_path.glob("**/shelled"))


def test_results_of_an_earlier_run_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "eval-command.jsonl").write_text('{"item": 1, "score": 1}\n')
    with pytest.raises(UsageError, match=r"wrote no results to .*eval-command.jsonl .*; it is told where by \{out\}"):
        run(tmp_path, python("pass"))


def test_a_failing_command_is_told_with_its_exit_code_and_last_words(tmp_path: Path) -> None:
    code = "import sys; print('first', file=sys.stderr); print('no GPU', file=sys.stderr); sys.exit(3)"
    with pytest.raises(UsageError, match="--eval-command: ended with exit code 3: no GPU"):
        run(tmp_path, python(code))


def test_a_command_that_fails_in_silence_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exit code 1: no message"):
        run(tmp_path, python("import sys; sys.exit(1)"))


def test_a_command_that_does_not_start_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--eval-command nowhere-to-be-found: does not start"):
        run(tmp_path, "nowhere-to-be-found --x")


@pytest.mark.parametrize("command", ["run 'it", ""])
def test_a_command_that_cannot_be_read_is_told(tmp_path: Path, command: str) -> None:
    with pytest.raises(UsageError):
        run(tmp_path, command)


def test_what_a_command_prints_need_not_be_utf8(tmp_path: Path) -> None:
    code = "import os, sys; sys.stderr.buffer.write(b'caf\\xe9'); " + WRITES
    assert run(tmp_path, python(code)) == {"1": 0.5}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def test_scores_are_read_by_item(results: Path) -> None:
    results.write_text('{"item": "a", "score": 0, "more": []}\n{"score": 1.0, "item": 2}\n{"item": "c", "score": true}\n')
    assert read_item_scores(results) == {"a": 0.0, "2": 1.0, "c": 1.0}


GOOD = '{"item": "a", "score": 1}\n'


@pytest.mark.parametrize(
    "line", ["a: 1", "[1]", "null", "1", "{}", '{"item": 1}', '{"item": 1, "score": null}', '{"item": 1, "score": "high"}', ""]
)
def test_a_line_that_is_no_score_is_named(results: Path, line: str) -> None:
    results.write_text(f"{GOOD}{line}\n{GOOD}")
    with pytest.raises(UsageError, match=r'results.jsonl: line 2 is not \{"item": ..., "score": ...\}'):
        read_item_scores(results)


@pytest.mark.parametrize("score", ["1.5", "-0.1", "NaN", "Infinity", "100"])
def test_a_score_outside_zero_and_one_is_named(results: Path, score: str) -> None:
    results.write_text(f'{GOOD}{{"item": "b", "score": {score}}}\n')
    with pytest.raises(UsageError, match=r"line 2: score \S+ is not in \[0, 1\]"):
        read_item_scores(results)


def test_a_score_of_hundreds_of_digits_is_named(results: Path) -> None:
    results.write_text(f'{GOOD}{{"item": "b", "score": 1{"0" * 400}}}\n')
    with pytest.raises(UsageError, match="line 2"):
        read_item_scores(results)


def test_an_item_that_stands_there_twice_is_named(results: Path) -> None:
    results.write_text('{"item": 1, "score": 1}\n{"item": "1", "score": 0}\n')
    with pytest.raises(UsageError, match="line 2: item '1' stands there twice"):
        read_item_scores(results)


def test_an_item_may_hold_any_character(results: Path) -> None:
    results.write_text(json.dumps({"item": "a\u2028b", "score": 1}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_item_scores(results) == {"a\u2028b": 1.0}


def test_an_empty_file_is_told(results: Path) -> None:
    results.write_text("")
    with pytest.raises(UsageError, match="holds no results"):
        read_item_scores(results)


def test_a_file_of_other_bytes_is_told(results: Path) -> None:
    results.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="wrote no results"):
        read_item_scores(results)
