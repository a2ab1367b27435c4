"""What a trial prints: every number whole, however narrow the terminal."""

from typing import Any

import pytest

from curate.console import console, trial

ARMS = {"curated": 233, "random-clean": 1233, "random": 233}
DATA: dict[str, Any] = {
    "arms": [
        {"arm": arm, "rows": rows, "steps": 240, "tokens": [32961.0], "held_out_nll": {"validation": [2.323]}}
        for arm, rows in ARMS.items()
    ],
    "scores": [
        {"arm": arm, "task": "sample-test", "strict": [0.699, 0.681], "lenient": [0.7, 0.7], "unread": [0.0], "cut_off": [0.001]}
        for arm in ARMS
    ],
}


def scores(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    trial._print_scores(console(), DATA, "sample-test")
    return capsys.readouterr().out


def test_a_narrow_terminal_loses_whole_columns_and_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = scores(60, monkeypatch, capsys)
    for words in ("69.0 ± 1.3", "70.0 ± 0.0", "1,233", "left out, the terminal is narrow: held-out nll, tokens, steps, cut off"):
        assert words in told.replace("\n", " ").replace("  ", " ")
    assert "…" not in told
    assert all(len(line) <= 60 for line in told.splitlines())


def test_a_wide_terminal_has_all_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told = scores(100, monkeypatch, capsys)
    assert "left out" not in told
    assert all(words in told for words in ("32,961", "2.323", "240", "0.1 %"))


@pytest.mark.parametrize("width", [60, 70, 80, 100, 140])
def test_an_interval_is_never_cut(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [
        ["curated - random-clean on a-long-task-name-1", "against the untrained model", "cannot tell", "-16.0", "-26.0 to -6.1"]
    ]
    headers = ["other contrasts", "kind", "word", "points", "95 % interval"]
    trial._print_table(console(), headers, rows, numbers_from=3, spare=["kind"])
    told = capsys.readouterr().out
    assert "-16.0" in told
    assert "-26.0 to -6.1" in told
    assert all(len(line) <= width for line in told.splitlines()[:3])
    assert ("left out" in told) == (width < 70)
