"""A training sees exactly the tokens that were scored, in exactly the planned order, and ends the same whatever interrupts it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_trials import QUIET, examples_of
from workshop import record

from curate.errors import InputError, ModelError, UsageError
from curate.examples import Example
from curate.filters import Likelihood, build_filter
from curate.likelihood import Rendered
from curate.recipes.trial import Training, TrialSettings
from curate.reference import model_path
from curate.trials.arms import Draw, training_sequence
from curate.trials.evaluation import Asker
from curate.trials.tasks import AnswerTask, Item
from curate.trials.training import COMPLETE, Trained, askable, initial_model, last_checkpoint, make_trainer, train

pytestmark = QUIET
STEPS, BATCH = 10, 4
HOW: dict[str, Any] = {"rank": 4, "alpha": 8, "batch": BATCH, "steps": STEPS, "warm_up": 0.1}
ROWS = examples_of(12)


def likelihood(model: Path, **settings: Any) -> Likelihood:
    found = build_filter("likelihood", {"model": str(model), "device": "cpu", **settings}, where="test")
    assert isinstance(found, Likelihood)
    return found


def planned(rows: int, count: int, seed: int = 0) -> list[int]:
    return [int(place) for place in training_sequence(Draw("random", seed, np.arange(rows)), count, seed)]


def trained(
    model: Path, folder: Path, *, seed: int = 0, rate: float = 0.01, examples: Sequence[Example] = ROWS, **how: Any
) -> Trained:
    told: dict[str, Any] = {"on_step": how.pop("on_step")} if "on_step" in how else {}
    settings = Training(**{**HOW, **how})
    steps = settings.steps or 0
    sequence = planned(len(examples), steps * settings.batch)
    return train(examples, sequence, likelihood(model), settings, rate=rate, steps=steps, seed=seed, folder=folder, **told)


def weights(model: Any) -> dict[str, bytes]:
    return {name: value.detach().float().numpy().tobytes() for name, value in model.state_dict().items()}


def furthest(one: Any, other: Any) -> float:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def seen(batches: Any) -> list[tuple[list[int], list[int]]]:
    """Token ids and the places that bear loss, row by row, of the trainer's batches, without padding."""
    found = []
    for batch in batches:
        for ids, labels, mask in zip(
            batch["input_ids"].tolist(), batch["labels"].tolist(), batch["attention_mask"].tolist(), strict=True
        ):
            length = sum(mask)
            assert all(label == -100 for label in labels[length:])
            assert all(label in (-100, token) for label, token in zip(labels, ids, strict=True))
            found.append((ids[:length], [at for at, label in enumerate(labels) if label != -100 and at > 0]))
    return found


def scored(filter_: Likelihood, examples: Sequence[Example]) -> list[tuple[list[int], list[int]]]:
    """The same of the rows as the filters score them."""
    rows = filter_.renderer().render(examples)
    assert all(isinstance(row, Rendered) for row in rows)
    return [(list(row.input_ids), list(range(row.start, len(row.input_ids)))) for row in rows if isinstance(row, Rendered)]


def trainer_of(
    filter_: Likelihood, sequence: Sequence[int], folder: Path, *, examples: Sequence[Example] = ROWS, **how: Any
) -> Any:
    settings = Training(**{**HOW, "steps": len(sequence) // BATCH, **how})
    return make_trainer(examples, sequence, filter_, settings, rate=1e-3, steps=settings.steps or 0, seed=0, folder=folder)


# What is trained


@pytest.mark.parametrize("is_cut", [False, True])
@pytest.mark.parametrize("fixture", ["tiny_model_dir", "plain_model_dir"])
def test_the_trainer_sees_the_scored_tokens_in_the_planned_order(
    fixture: str, is_cut: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(fixture)
    longest = max(len(ids) for ids, _ in scored(likelihood(model), ROWS))
    filter_ = likelihood(model, max_length=longest - 3 * is_cut)
    sequence = planned(len(ROWS), 3 * len(ROWS))  # three epochs
    wanted = scored(filter_, [ROWS[place] for place in sequence])
    assert max(len(ids) for ids, _ in wanted) == longest - 3 * is_cut
    assert seen(trainer_of(filter_, sequence, tmp_path).get_train_dataloader()) == wanted


def test_the_model_is_fed_the_sequence_and_nothing_else(tmp_path: Path) -> None:
    filter_ = likelihood(model_path())
    sequence = planned(len(ROWS), 6 * BATCH)
    trainer = trainer_of(filter_, sequence, tmp_path, micro_batch=2)
    fed: list[dict[str, Any]] = []
    step = trainer.compute_loss

    def noting(model: Any, inputs: dict[str, Any], *more: Any, **named: Any) -> Any:
        fed.append({name: inputs[name].clone() for name in ("input_ids", "labels", "attention_mask")})
        return step(model, inputs, *more, **named)

    trainer.compute_loss = noting
    trainer.train()
    assert seen(fed) == scored(filter_, [ROWS[place] for place in sequence])


def test_every_epoch_holds_every_row_once_in_another_order() -> None:
    sequence = planned(30, 75)
    first, second, rest = sequence[:30], sequence[30:60], sequence[60:]
    assert sorted(first) == sorted(second) == list(range(30))
    assert first != second
    assert len(set(rest)) == 15


def test_an_ordered_arm_is_trained_in_its_order_every_epoch() -> None:
    draw = Draw("curated", 0, np.array([7, 3, 5]), is_ordered=True)
    assert training_sequence(draw, 7, 0).tolist() == [7, 3, 5, 7, 3, 5, 7]


def test_a_row_that_the_trainer_would_drop_is_an_error(tmp_path: Path, tiny_model_dir: Path) -> None:
    prompt = record("word " * 200, "answer")
    long = Example([{"role": "user", "content": prompt["prompt"]}, {"role": "assistant", "content": prompt["response"]}])
    with pytest.raises(InputError, match="kept 12 of 13 rows"):
        trainer_of(likelihood(tiny_model_dir, max_length=64), [0, 1, 2, 12], tmp_path, examples=[*ROWS, long])


def test_a_place_beyond_the_rows_is_an_error(tmp_path: Path, tiny_model_dir: Path) -> None:
    with pytest.raises(IndexError):
        trainer_of(likelihood(tiny_model_dir), [0, 1, 2, len(ROWS)], tmp_path)


def test_a_sequence_that_is_no_whole_number_of_batches_is_refused(tmp_path: Path, tiny_model_dir: Path) -> None:
    with pytest.raises(AssertionError, match="39 rows for 10 steps of 4"):
        train(ROWS, [0] * 39, likelihood(tiny_model_dir), Training(**HOW), rate=0.01, steps=10, seed=0, folder=tmp_path)


# How it is trained


@pytest.mark.parametrize("method", ["lora", "full"])
def test_accumulated_gradients_train_what_one_batch_trains(method: str, tmp_path: Path, tiny_model_dir: Path) -> None:
    whole = trained(tiny_model_dir, tmp_path / "whole", method=method, rate=1e-3)
    parts = trained(tiny_model_dir, tmp_path / "parts", method=method, rate=1e-3, micro_batch=1)
    assert [loss for _, loss in parts.loss] == pytest.approx([loss for _, loss in whole.loss], abs=1e-4)
    assert furthest(whole.model, parts.model) < 2e-4
    assert furthest(whole.model, initial_model(likelihood(tiny_model_dir), Training(**HOW), seed=0)) > 1e-3


@pytest.mark.parametrize("method", ["lora", "full", "from_scratch"])
def test_one_seed_gives_one_model_and_another_seed_another(method: str, tmp_path: Path, tiny_model_dir: Path) -> None:
    first, again, other = (
        trained(tiny_model_dir, tmp_path / name, method=method, seed=seed).model for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert weights(first) == weights(again)
    # Without adapters and without a new model nothing is drawn: the order of rows alone depends on a seed, and here it is given.
    assert (weights(first) == weights(other)) == (method == "full")


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_training_lowers_the_loss_and_leaves_one_model_without_adapters(
    method: str, tmp_path: Path, tiny_model_dir: Path
) -> None:
    done = trained(tiny_model_dir, tmp_path, method=method, steps=20)
    assert done.loss[-1][1] < done.loss[0][1] - 0.3
    assert not done.model.training
    assert not any("lora" in name for name, _ in done.model.named_parameters())
    assert not any(parameter.requires_grad for parameter in done.model.parameters())


def test_full_training_changes_every_weight(tmp_path: Path, tiny_model_dir: Path) -> None:
    before = weights(initial_model(likelihood(tiny_model_dir), Training(**HOW), seed=0))
    after = weights(trained(tiny_model_dir, tmp_path, method="full").model)
    assert [name for name in before if before[name] == after[name]] == []


def test_the_paper_preset_adapts_queries_and_values_alone(tmp_path: Path, tiny_model_dir: Path) -> None:
    settings = TrialSettings(preset="paper", training={"steps": 1, "batch": BATCH}).training
    trainer = make_trainer(ROWS, [0, 1, 2, 3], likelihood(tiny_model_dir), settings, rate=1e-3, steps=1, seed=0, folder=tmp_path)
    moved = {name.split(".")[-4] for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert moved == {"q_proj", "v_proj"}
    assert trainer.model.peft_config["default"].r == 8


def test_all_linear_layers_are_adapted_unless_said_otherwise(tmp_path: Path, tiny_model_dir: Path) -> None:
    trainer = trainer_of(likelihood(tiny_model_dir), [0, 1, 2, 3], tmp_path)
    moved = {name.split(".")[-4] for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert moved == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_modules_that_the_model_lacks_are_a_usage_error(tmp_path: Path, tiny_model_dir: Path) -> None:
    with pytest.raises(UsageError, match=r"targets.*query_key_value"):
        trainer_of(likelihood(tiny_model_dir), [0, 1, 2, 3], tmp_path, targets=("query_key_value",))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_loss_that_is_not_finite_is_an_error(method: str, tmp_path: Path, tiny_model_dir: Path) -> None:
    with pytest.raises(ModelError, match="not finite at learning rate"):
        trained(tiny_model_dir, tmp_path, method=method, rate=1e30)


def test_a_batch_that_processes_cannot_share_is_a_usage_error(tmp_path: Path, tiny_model_dir: Path) -> None:
    with pytest.raises(UsageError, match="a batch of 4 cannot be dealt to 3 processes"):
        make_trainer(
            ROWS, [0] * 4, likelihood(tiny_model_dir), Training(**HOW), rate=1e-3, steps=1, seed=0, folder=tmp_path, processes=3
        )


# From scratch

SHAPE = {
    "model_type": "llama",
    "vocab_size": 400,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def _as_mapping(folder: Path) -> Any:
    return SHAPE


def _as_file(folder: Path) -> Any:
    (folder / "config.json").write_text(json.dumps(SHAPE))
    return str(folder / "config.json")


def _as_folder(folder: Path) -> Any:
    _as_file(folder)
    return str(folder)


@pytest.mark.parametrize("given", [_as_mapping, _as_file, _as_folder])
def test_a_model_from_scratch_has_the_configured_shape(
    given: Callable[[Path], Any], tmp_path: Path, tiny_model_dir: Path
) -> None:
    how = Training(**HOW, method="from_scratch", config=given(tmp_path))
    model = initial_model(likelihood(tiny_model_dir), how, seed=0)
    assert (model.config.hidden_size, len(model.model.layers)) == (16, 1)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_model_from_scratch_is_by_default_the_target_with_other_weights(tiny_model_dir: Path) -> None:
    filter_, how = likelihood(tiny_model_dir), Training(**HOW, method="from_scratch")
    target = initial_model(filter_, Training(**HOW), seed=0)
    first, again, other = (weights(initial_model(filter_, how, seed=seed)) for seed in (0, 0, 1))
    assert {name: len(value) for name, value in first.items()} == {name: len(value) for name, value in weights(target).items()}
    assert first == again
    assert first != other != weights(target)


@pytest.mark.parametrize(
    "config", [{**SHAPE, "vocab_size": 10}, {"hidden_size": 16}, {"model_type": "no such"}, "/nowhere/config.json"]
)
def test_a_configuration_that_cannot_be_used_is_a_usage_error(config: Any, tiny_model_dir: Path) -> None:
    with pytest.raises(UsageError, match="training: config"):
        initial_model(likelihood(tiny_model_dir), Training(**HOW, method="from_scratch", config=config), seed=0)


# Interrupted


class Killed(Exception):  # noqa: N818
    """Stands for whatever ends a process."""


def _kill_at(wanted: int) -> Callable[[int], None]:
    def on_step(step: int) -> None:
        if step == wanted:
            raise Killed

    return on_step


def interrupted(model: Path, folder: Path, step: int = 7, **how: Any) -> Path:
    with pytest.raises(Killed):
        trained(model, folder, on_step=_kill_at(step), **how)
    return folder


@pytest.mark.parametrize("how", [{"dropout": 0.2}, {"method": "full", "micro_batch": 2}], ids=["lora", "full"])
def test_a_resumed_training_ends_with_the_same_bits(how: dict[str, Any], tmp_path: Path, tiny_model_dir: Path) -> None:
    whole = trained(tiny_model_dir, tmp_path / "whole", **how)
    resumed = trained(tiny_model_dir, interrupted(tiny_model_dir, tmp_path / "killed", **how), **how)
    assert (whole.resumed_at, resumed.resumed_at) == (0, 6)
    assert weights(whole.model) == weights(resumed.model)
    assert whole.loss == resumed.loss


def _lose_a_file(checkpoint: Path) -> None:
    (checkpoint / "optimizer.pt").unlink()


def _change_a_file(checkpoint: Path) -> None:
    with (checkpoint / "adapter_model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")


def _lose_the_mark(checkpoint: Path) -> None:
    (checkpoint / COMPLETE).unlink()


def _cut_the_mark(checkpoint: Path) -> None:
    (checkpoint / COMPLETE).write_text("{")


@pytest.mark.parametrize("damage", [_lose_a_file, _change_a_file, _lose_the_mark, _cut_the_mark])
def test_a_half_written_checkpoint_is_not_used(damage: Callable[[Path], None], tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = interrupted(tiny_model_dir, tmp_path / "killed")
    newest = last_checkpoint(folder)
    assert newest == folder / "checkpoint-6"
    damage(newest)
    assert last_checkpoint(folder) == folder / "checkpoint-4"
    assert not newest.exists()
    assert trained(tiny_model_dir, folder).resumed_at == 4


def test_where_no_checkpoint_is_whole_the_training_begins_anew(tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = interrupted(tiny_model_dir, tmp_path / "killed", step=3)
    _lose_the_mark(folder / "checkpoint-2")
    assert weights(trained(tiny_model_dir, folder).model) == weights(trained(tiny_model_dir, tmp_path / "whole").model)


def test_a_training_that_was_complete_is_not_repeated(tmp_path: Path, tiny_model_dir: Path) -> None:
    steps: list[int] = []
    first = trained(tiny_model_dir, tmp_path)
    again = trained(tiny_model_dir, tmp_path, on_step=steps.append)
    assert (steps, again.resumed_at) == ([], STEPS)
    assert weights(first.model) == weights(again.model)


# What is asked

SMALL: dict[str, Any] = {"precision": "bfloat16", "steps": 4, "rate": 2e-4}
"""A training in bfloat16 whose updates are far below a step of its weights."""


def nlls(model: Any, filter_: Likelihood) -> list[float]:
    """Of some rows, as the filters would score them under this model."""
    asker = Asker(model, filter_)
    return [asker.held_out([example])[0] for example in ROWS[:4]]


def test_an_update_that_bfloat16_weights_cannot_hold_is_asked_all_the_same(tmp_path: Path, tiny_model_dir: Path) -> None:
    filter_ = likelihood(tiny_model_dir)
    found = nlls(trained(tiny_model_dir, tmp_path, **SMALL).model, filter_)
    again = trained(tiny_model_dir, tmp_path, **SMALL)  # from the last checkpoint: nothing is trained
    wanted = nlls(again.whole(), filter_)
    untrained = nlls(askable(initial_model(filter_, Training(**HOW, precision="bfloat16"), seed=0)), filter_)
    for mine, merged, before in zip(found, wanted, untrained, strict=True):
        assert abs(mine - merged) < 0.05 * abs(merged - before)


def test_adapters_beside_bfloat16_weights_answer_the_same_before_and_after_options_are_scored(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    asker = Asker(trained(tiny_model_dir, tmp_path, **SMALL).model, likelihood(tiny_model_dir))
    asked = AnswerTask(name="t", data="none", max_new_tokens=8)
    items = [Item(at, str(at), "test", ({"role": "user", "content": f"What is {at}?"},), ("gold",)) for at in range(4)]
    before = asker.generate(asked, items)
    asker.held_out(ROWS[:2])
    assert asker.generate(asked, items) == before


def test_the_whole_model_has_its_adapters_merged_and_can_be_saved(tmp_path: Path, tiny_model_dir: Path) -> None:
    from transformers import AutoModelForCausalLM

    whole = trained(tiny_model_dir, tmp_path / "t", **SMALL).whole()
    whole.save_pretrained(tmp_path / "saved")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert {name: value.dtype for name, value in loaded.state_dict().items()} == {
        name: value.dtype for name, value in whole.state_dict().items()
    }
    assert furthest(whole, loaded) == 0
    assert not any("lora" in name for name, _ in loaded.named_parameters())


def test_no_checkpoint_is_written_but_where_it_was_asked_for(tmp_path: Path, tiny_model_dir: Path) -> None:
    told: list[str] = []
    how = Training(**HOW)
    train(
        ROWS, planned(len(ROWS), STEPS * BATCH), likelihood(tiny_model_dir), how, rate=0.01, steps=STEPS, seed=0,
        folder=tmp_path, checkpoints=1, on_step=lambda step: told.append(str(step)), on_save=lambda: told.append("saved"),
    )  # fmt: skip
    assert told == [*(str(step) for step in range(1, STEPS + 1)), "saved"]
