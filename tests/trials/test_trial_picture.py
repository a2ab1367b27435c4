"""The picture of a trial: every kind of report can be drawn, whatever its arms are called."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from trial_folders import answer_task, answered_trial, facts_of

from curate.errors import UsageError
from curate.trials.judging import TrialReport, judge_trial
from curate.trials.picture import MOST_CONTRASTS, draw

SINGLE = {"curated": [15, 16, 15], "random-clean": [12, 11, 13], "random": [5, 6, 5], "full": [9, 8, 9], "base": [1]}
CURVE = {
    "ordered@0.25": [6, 7, 6],
    "shuffled@0.25": [2, 3, 2],
    "ordered@0.5": [10, 11, 10],
    "shuffled@0.5": [4, 5, 4],
    "ordered@1": [15, 16, 15],
    "shuffled@1": [15, 15, 16],
    "base": [0],
}
MIX = {"synthetic@0": [15, 16, 15], "synthetic@0.5": [13, 11, 12], "synthetic@1": [5, 6, 5], "base": [0]}
PROTOCOLS: Mapping[str, tuple[Mapping[str, Sequence[int]], tuple[str, str]]] = {
    "single": (SINGLE, ("curated", "random-clean")),
    "progressive": (CURVE, ("ordered", "shuffled")),
    "mix": (MIX, ("synthetic@1", "synthetic@0")),
}


@pytest.fixture(autouse=True)
def _own_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("os.fsync", lambda handle: None)  # many small files, and no power is lost here


def report(folder: Path, protocol: str = "single", **facts: Any) -> TrialReport:
    right, primary = PROTOCOLS[protocol]
    tasks = [answer_task(folder, 20)]
    return judge_trial(answered_trial(folder / "out", tasks, right), tasks, facts_of(primary, protocol=protocol, **facts))


def words(svg: Path) -> str:
    """The text of a picture: matplotlib draws letters as paths and keeps the text in comments."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    root = ElementTree.parse(svg, parser).getroot()
    return "\n".join(element.text or "" for element in root.iter())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_is_drawn(tmp_path: Path, protocol: str) -> None:
    found = report(tmp_path, protocol)
    draw(found, tmp_path / "t.svg")
    shown = words(tmp_path / "t.svg")
    assert f"x on sums: {found.word}" in shown
    for entry in found.data["contrasts"]:
        assert f"{entry['treated']} − {entry['control']}" in shown


@pytest.mark.parametrize(("suffix", "begin"), [("png", b"\x89PNG"), ("PNG", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_the_suffix_says_the_format(tmp_path: Path, suffix: str, begin: bytes) -> None:
    path = tmp_path / "new" / f"t.{suffix}"
    draw(report(tmp_path), path)
    assert path.read_bytes().startswith(begin)


@pytest.mark.parametrize("name", ["t.jpeg", "t", "svg"])
def test_another_suffix_is_an_error_before_anything_is_drawn(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"name a file that ends in \.svg, \.png, \.pdf"):
        draw(report(tmp_path), tmp_path / "new" / name)
    assert not (tmp_path / "new").exists()


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize(
    "name",
    [
        "$x_1$",
        "50 %_of{it}^2",
        "tab\tand\nline",
        "é 漢字",
        "\\frac{",
        "<b>&",
        "x" * 300,
    ],
)
def test_no_name_breaks_the_picture(tmp_path: Path, name: str) -> None:
    data = dict(report(tmp_path, recipe=name).data)
    for kind in ("scores", "contrasts"):
        data[kind] = [
            {key: f"source:{name}" if value == "random" else value for key, value in entry.items()} for entry in data[kind]
        ]
    draw(TrialReport(data), tmp_path / "t.png")
    assert (tmp_path / "t.png").stat().st_size > 10_000


def test_a_report_without_base_is_drawn(tmp_path: Path) -> None:
    tasks = [answer_task(tmp_path, 20)]
    right = {"curated": [10, 10], "random": [10, 10]}
    draw(judge_trial(answered_trial(tmp_path / "out", tasks, right), tasks, facts_of()), tmp_path / "t.png")


def test_of_many_contrasts_the_first_are_shown(tmp_path: Path) -> None:
    found = report(tmp_path)
    many = [{**found.data["contrasts"][1], "treated": f"t{number}"} for number in range(60)]
    draw(TrialReport({**found.data, "contrasts": [*found.data["contrasts"][:1], *many]}), tmp_path / "t.svg")
    shown = words(tmp_path / "t.svg")
    assert f"t{MOST_CONTRASTS - 2} −" in shown
    assert f"t{MOST_CONTRASTS - 1} −" not in shown
