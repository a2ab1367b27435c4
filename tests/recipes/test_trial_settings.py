"""What a recipe may say about its trial."""

from typing import Any

import pytest
from pydantic import ValidationError

from curate.recipes.trial import PRESETS, Training, TrialSettings


def training(**said: Any) -> Training:
    return TrialSettings(**said).training


def test_without_a_word_the_preset_is_modern() -> None:
    assert TrialSettings().training == training(preset="modern") == Training()


def test_the_paper_preset_stands_without_a_training_section() -> None:
    found = training(preset="paper")
    assert (found.rank, found.alpha, found.targets) == (8, 16, ("q_proj", "v_proj"))
    assert (found.learning_rate, found.warm_up, found.epochs, found.batch) == ((2e-5,), 0.1, 20, 32)


def test_what_a_recipe_says_wins_over_the_preset() -> None:
    found = training(preset="paper", training={"rank": 4})
    assert (found.rank, found.alpha, found.epochs) == (4, 16, 20)


@pytest.mark.parametrize("preset", PRESETS)
def test_steps_take_the_place_of_the_presets_epochs(preset: str) -> None:
    found = training(preset=preset, training={"steps": 7})
    assert (found.steps, found.epochs) == (7, None)


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_survive_being_written_out(preset: str) -> None:
    said = TrialSettings(preset=preset, training={"steps": 7}, against=("base",))
    assert TrialSettings(**said.model_dump(mode="json")) == said
    assert TrialSettings(**TrialSettings(preset=preset).model_dump()) == TrialSettings(preset=preset)


@pytest.mark.parametrize("rate", [2e-4, "2e-4", [2e-4], ["2e-4"]])
def test_a_rate_may_stand_alone_and_as_yaml_reads_it(rate: Any) -> None:
    # YAML 1.1 reads 2e-4, without a point, as text.
    assert training(training={"learning_rate": rate}).learning_rate == (2e-4,)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"steps": 5, "epochs": 2}, "either `epochs` or `steps`"),
        ({"epochs": None}, "either `epochs` or `steps`"),
        ({"learning_rate": []}, "at least one rate"),
        ({"learning_rate": 0}, "greater than 0"),
        ({"learning_rate": 2}, "less than or equal to 1"),
        ({"learning_rate": "nan"}, "finite"),
        ({"batch": 32, "micro_batch": 5}, "micro_batch 5 does not divide the batch of 32"),
        ({"config": "c.json"}, "`config` is for `method: from_scratch`"),
        ({"method": "qlora"}, "'lora', 'full' or 'from_scratch'"),
        ({"steps": 5.0}, "integer"),
        ({"steps": "5"}, "integer"),
        ({"steps": True}, "integer"),
        ({"steps": 0}, "greater than or equal to 1"),
        ({"epochs": -1}, "greater than 0"),
        ({"warm_up": 1.0}, "less than 1"),
        ({"warm_up": "0.1"}, "valid number"),
        ({"rnak": 8}, "Extra inputs"),
        ({"epochs": float("inf")}, "finite"),
        ({"alpha": float("inf")}, "finite"),
    ],
)
def test_training_that_cannot_be_meant_is_an_error(said: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        TrialSettings(training=said)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"seeds": 1}, "greater than or equal to 2"),
        ({"seeds": 3.0}, "integer"),
        ({"seeds": "3"}, "integer"),
        ({"first_seed": -1}, "greater than or equal to 0"),
        ({"first_seed": 2**31}, "less than"),
        ({"test": 1.0}, "less than 1"),
        ({"test": -0.1}, "greater than or equal to 0"),
        ({"margin": -0.01}, "greater than or equal to 0"),
        ({"margin": "0.01"}, "valid number"),
        ({"overlap": float("nan")}, "finite"),
        ({"preset": "papr"}, "'modern' or 'paper'"),
        ({"protocol": "curve"}, "'single', 'progressive' or 'mix'"),
        ({"agianst": ["base"]}, "Extra inputs"),
        ({"primary": "random-claen"}, r"unknown arm 'random-claen'; did you mean 'random-clean'\?"),
        ({"against": ["longst"]}, "unknown arm 'longst'; did you mean 'longest'"),
        ({"against": ["zzz"]}, r"unknown arm 'zzz'; known: after:N, base, .*source:NAME"),
        ({"against": ["after:0"]}, "unknown arm 'after:0'"),
        ({"against": ["source:"]}, "unknown arm 'source:'"),
        ({"against": "base"}, "tuple"),
        ({"primary": "base"}, "`primary: base` would compare training with none"),
    ],
)
def test_a_section_that_cannot_be_meant_is_an_error(said: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        TrialSettings(**said)


@pytest.mark.parametrize("arm", ["after:1", "after:12", "source:gpt-4", "source:a b", "familiarity-top50", "full-epochs"])
def test_arms_may_be_steps_sources_and_shipped_recipes(arm: str) -> None:
    assert TrialSettings(primary=arm, against=(arm,)).primary == arm


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.5, 0.1), (-0.1,), (0.5, 1.1), (float("nan"),)])
def test_shares_rise_between_nothing_and_all(shares: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="`shares` must rise"):
        TrialSettings(protocol="mix", shares=shares)


def test_a_protocol_has_shares_of_its_own() -> None:
    assert TrialSettings(protocol="progressive").points == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    assert TrialSettings(protocol="mix").points == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert TrialSettings(protocol="mix", shares=(0, 1)).points == (0.0, 1.0)


def test_a_learning_curve_has_no_point_of_nothing() -> None:
    with pytest.raises(ValidationError):
        TrialSettings(protocol="progressive", shares=(0.0, 0.5))


def test_a_mix_has_two_shares_to_compare() -> None:
    with pytest.raises(ValidationError):
        TrialSettings(protocol="mix", shares=(0.5,))


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TrialSettings().seeds = 3  # type: ignore[misc]
