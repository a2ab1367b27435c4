"""`curate calibrate`: figures on labelled rows, where a run's report finds them."""

import json
import random
from pathlib import Path

import pytest
from conftest import save_tiny_model
from workshop import curate, recipe_file, record, write_rows

from curate.learning.judging import auroc

WORDS = [f"word{number}" for number in range(80)]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two human sources and a machine that says `delve`; the second human source does so too, now and then."""
    draw = random.Random(0)
    rows = []
    for number in range(60):
        for source, often in (("essay", 0), ("learner", 2), ("gpt", 4)):
            text = " ".join(draw.choices(WORDS + ["delve"] * 4 * often, k=60))
            rows.append(record(f"q{number}", text, source=source, level=source[:3]))
    rows.append(record("short", "Too short.", source="gpt", level="x"))
    return write_rows(tmp_path_factory.mktemp("labelled") / "rows.jsonl", rows)


@pytest.fixture(scope="module")
def calibrated(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("calibrated") / "out"
    done = curate("calibrate", labelled, "--human", "essay", "--human", "learner", "--out", out, "--save", out.parent / "saved")
    assert done.code == 0, done.err
    assert "learned_detector.log_odds" in done.out
    return out


def test_the_figures_are_those_of_the_scores(calibrated: Path) -> None:
    import numpy as np
    import pyarrow.parquet as pq

    found = json.loads((calibrated / "calibration.json").read_text())["detectors"]["learned_detector.log_odds"]
    (folder,) = (calibrated / "annotations").glob("learned_detector*")
    scores = [
        row["learned_detector"]["log_odds"]
        for path in sorted(folder.glob("part-*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    is_machine = [place % 3 == 2 for place in range(180)]
    assert scores[180] is None
    assert found["auroc"] == pytest.approx(auroc(np.array(scores[:180]), np.array(is_machine)))
    assert found["auroc_interval"][0] < found["auroc"] < found["auroc_interval"][1]
    assert (found["human_rows"], found["machine_rows"], found["unscored"]) == (120, 60, {"too_short": 1})
    above = [score > found["threshold_at_5"] for score in scores[:180]]
    assert sum(above[0::3]) + sum(above[1::3]) <= 0.05 * 120
    assert found["found_at_5"] == pytest.approx(sum(above[2::3]) / 60)


def test_a_detector_that_is_lower_for_machines_is_judged_by_its_direction(
    labelled: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    import numpy as np

    from curate.annotations import load_annotations
    from curate.selection.frame import Frame

    observer = save_tiny_model(tmp_path / "observer", chat_template=None, seed=1)
    chosen = recipe_file(
        tmp_path / "r.yaml",
        ["keep: {field: binoculars.score, highest: 50%}"],
        filters=f"{{binoculars: {{model: target, observer: '{observer}'}}}}",
    )
    human = ("--human", "essay", "--human", "learner", "--recipe", chosen, "--model", tiny_model_dir)
    done = curate("calibrate", labelled, *human, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    found = done.json["detectors"]["binoculars.score"]
    (store,) = load_annotations(tmp_path / "out").stores
    scores = Frame(load_annotations(tmp_path / "out").rows, {"binoculars": store}).column("binoculars.score").values[:180]
    is_machine = np.arange(180) % 3 == 2
    assert found["auroc"] == pytest.approx(1 - auroc(scores, is_machine))
    assert (scores[~is_machine] < found["threshold_at_5"]).mean() <= 0.05
    assert found["found_at_5"] == pytest.approx((scores[is_machine] < found["threshold_at_5"]).mean())


def test_whoever_writes_like_the_machine_is_accused_more(calibrated: Path) -> None:
    found = json.loads((calibrated / "calibration.json").read_text())["detectors"]["learned_detector.log_odds"]
    rates = {group["group"]: group["rate_at_5"] for group in found["groups"]}
    assert rates["learner"] > rates["essay"]
    assert (rates["learner"] + rates["essay"]) / 2 <= 0.05


def test_a_run_knows_the_figures_of_its_detector(labelled: Path, calibrated: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"name: r\nfilters: {{learned_detector: {{load: {calibrated.parent / 'saved'}}}}}\nunscored: keep\n"
        "steps:\n  - keep: {field: learned_detector.log_odds, lowest: 50%}\n"
    )
    out = tmp_path / "run"
    first = curate("--recipe", recipe, labelled, "--out", out, "--json")
    assert first.code == 0, first.err
    assert [said for said in first.json["warnings"] if "uncalibrated" in said]
    again = curate("calibrate", labelled, "--human", "essay", "--human", "learner", "--out", calibrated, "--into", out, "--json")
    assert again.code == 0, again.err
    second = curate("select", out, "--recipe", recipe, "--json").json
    assert not [said for said in second["warnings"] if "uncalibrated" in said]
    figures = again.json["detectors"]["learned_detector.log_odds"]
    assert second["calibration"]["learned_detector.log_odds"] == {"auroc": figures["auroc"], "found_at_1": figures["found_at_1"]}
    assert curate("verify", out).code == 0
    assert (out / "calibration.svg").read_text().lstrip().startswith("<?xml")


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_it_is_drawn(labelled: Path, calibrated: Path, tmp_path: Path, suffix: str) -> None:
    picture = tmp_path / f"roc{suffix}"
    done = curate(
        "calibrate",
        labelled,
        "--human",
        "essay",
        "--human",
        "learner",
        "--out",
        calibrated,
        "--group",
        "level",
        "--plot",
        picture,
    )
    assert done.code == 0, done.err
    assert picture.stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--human", "nobody"), "--human nobody: no row has that source; the sources are essay, gpt, learner"),
        (("--human", "essay", "--group", "nothing"), "--group nothing: no row has a value"),
        (("--human", "essay", "--recipe", "clean"), "has no detector to calibrate"),
        (("--human", "essay", "--into", "."), "is no folder of a run"),
    ],
)
def test_mistakes_are_said(labelled: Path, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = curate("calibrate", labelled, *arguments, "--out", tmp_path / "out")
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
