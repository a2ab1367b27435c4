"""What a recipe says about its trial: arms, training, tasks, seeds."""

import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationInfo, field_validator, model_validator

from curate.errors import near_miss

ARMS = ("random-clean", "random", "full", "full-epochs", "base", "longest", "reverse")
"""What a trial can compare with, beside `after:N`, `source:NAME` and the shipped recipes."""
_NAMED_ARM = re.compile(r"source:.+|after:[1-9][0-9]?")

Rate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Strict(), Field(ge=1)]
MOST_STEPS = 1_000_000
"""Optimiser steps of one training: which row comes when is drawn for all of them beforehand."""
Part = Annotated[float, Strict(), Field(ge=0, lt=1, allow_inf_nan=False)]
Rates = Annotated[tuple[Rate, ...], BeforeValidator(lambda value: value if isinstance(value, list | tuple) else (value,))]


class TrialModel(BaseModel):
    """Base of everything in the `trial` section: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Training(TrialModel):
    """How every arm of a trial is trained: TRL's SFTTrainer, with LoRA unless another method is named."""

    method: Literal["lora", "full", "from_scratch"] = "lora"
    """`from_scratch` trains a randomly initialised model of `config`, all weights."""
    rank: Count = 16
    alpha: Positive = 32
    dropout: Part = 0.0
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Modules that LoRA adapts."""
    learning_rate: Rates = (1e-4, 2e-4, 5e-4)
    """One rate, or several of which the one is taken that gives the random arm the lowest loss on the validation rows."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warm_up: Part = 0.03
    """Share of the steps over which the rate rises."""
    weight_decay: Part = 0.0
    batch: Count = 32
    """Rows per optimiser step, over all devices."""
    micro_batch: Count | None = None
    """Rows per forward pass and device; default: the batch on a CPU, 8 on a GPU. Gradients are accumulated to `batch`."""
    epochs: Positive | None = 3.0
    steps: Count | None = None
    """Optimiser steps, in place of epochs, a million at most. All arms take those of the curated one, but for `full-epochs`."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the device has it, else float32."""
    config: str | dict[str, Any] | None = None
    """For `from_scratch`: a `config.json`, a model folder or Hub id, or the configuration itself; default: that of the model."""

    @field_validator("steps")
    @classmethod
    def _not_too_many(cls, value: int | None) -> int | None:
        if value is not None and value > MOST_STEPS:
            raise ValueError(f"at most {MOST_STEPS:,} steps can be trained")
        return value

    @model_validator(mode="before")
    @classmethod
    def _one_length(cls, value: Any) -> Any:
        # Whoever writes steps means steps: the default of epochs must not stand beside them.
        if isinstance(value, Mapping) and value.get("steps") is not None and value.get("epochs") is None:
            return {**value, "epochs": None}
        return value

    @model_validator(mode="after")
    def _can_be_meant(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("training needs either `epochs` or `steps`")
        if self.config is not None and self.method != "from_scratch":
            raise ValueError("`config` is for `method: from_scratch`; the other methods train the model as it is")
        if not self.learning_rate:
            raise ValueError("`learning_rate` must name at least one rate")
        if self.micro_batch is not None and self.batch % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} does not divide the batch of {self.batch}")
        return self

    @property
    def length(self) -> str:
        """`4 steps` or `3 epochs`."""
        return f"{self.steps:,} steps" if self.steps is not None else f"{self.epochs:g} epochs"


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "modern": {},
    # arXiv 2402.11192 and its follow-up's logs; alpha is not told there, PEFT's convention of twice the rank is ours.
    "paper": {
        "rank": 8, "alpha": 16, "targets": ("q_proj", "v_proj"), "learning_rate": 2e-5, "warm_up": 0.1, "epochs": 20.0,
    },
}  # fmt: skip


class TrialSettings(TrialModel):
    """Which comparison the trial makes, how it trains and what it asks."""

    primary: str = "random-clean"
    """The control that the verdict is about."""
    against: tuple[str, ...] = ()
    """Further arms."""
    protocol: Literal["single", "progressive", "mix"] = "single"
    shares: tuple[float, ...] = ()
    """Of `progressive` (default 10 % to 100 %) and `mix` (default 0 %, 25 % ... 100 % synthetic rows)."""
    human: tuple[str, ...] = ("human",)
    """For `mix`: sources written by people; all others count as synthetic."""
    preset: Literal["modern", "paper"] = "modern"
    training: Training = Training()
    """The preset, with what the recipe says instead of it."""
    tasks: tuple[str | dict[str, Any], ...] = ()
    """Task files, or tasks written out; `sample` is the packaged sample's test split. Default: held-out rows with gold."""
    primary_task: str | None = None
    """Name of the task that the verdict is about; default: the first."""
    seeds: Annotated[int, Strict(), Field(ge=2, le=1000)] = 5
    first_seed: Annotated[int, Strict(), Field(ge=0, lt=2**31)] = 0
    margin: Part = 0.01
    """A loss of at most this much (a share: 0.01 is one point) counts as `no worse`."""
    validation: Part = 0.05
    """Share of the prompts held out for the learning rate and the held-out loss."""
    test: Part = 0.2
    """Share of the prompts held out as test, where no tasks are named."""
    overlap: Part = 0.02
    """Largest share of test items that may stand in the training rows."""

    @field_validator("training", mode="before")
    @classmethod
    def _on_top_of_the_preset(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, Mapping):
            return value
        preset = dict(PRESETS.get(info.data.get("preset", "modern"), {}))
        if value.get("steps") is not None:
            preset.pop("epochs", None)
        return {**preset, **value}

    @model_validator(mode="before")
    @classmethod
    def _preset_alone(cls, value: Any) -> Any:
        # Without a `training` key the validator above would not run, and `preset: paper` would mean nothing.
        return {**value, "training": value.get("training") or {}} if isinstance(value, Mapping) else value

    @field_validator("shares")
    @classmethod
    def _shares_rise(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 <= share <= 1 for share in value) or list(value) != sorted(set(value)):
            raise ValueError("`shares` must rise, from 0 at least to 1 at most, such as [0.1, 0.5, 1.0]")
        return value

    @model_validator(mode="after")
    def _arms_exist(self) -> Self:
        for arm in (self.primary, *self.against):
            if arm not in known_arms() and not _NAMED_ARM.fullmatch(arm):
                raise ValueError(f"unknown arm {arm!r}; {near_miss(arm, [*known_arms(), 'source:NAME', 'after:N'])}")
        if self.protocol == "progressive" and 0 in self.shares:
            raise ValueError("`shares` of a progressive trial must be above 0: nothing can be trained on no rows")
        if self.protocol == "mix" and len(self.shares) == 1:
            raise ValueError("`shares` of a mix must be two at least: the first and the last are what is compared")
        if self.primary == "base":
            raise ValueError("`primary: base` would compare training with none; name another arm, `base` belongs in `against`")
        return self

    @property
    def points(self) -> tuple[float, ...]:
        """Shares of the protocol, with its default."""
        if self.protocol == "progressive":
            return self.shares or tuple(float(Fraction(tenth, 10)) for tenth in range(1, 11))
        return self.shares or (0.0, 0.25, 0.5, 0.75, 1.0)

    def unlike(self, own: Self) -> list[str]:
        """What is set otherwise than in `own`, in words: `seeds 2 (recipe: 5)`. Tasks and arms are seen in any report."""
        seen = ("training", "tasks", "primary_task", "against")
        names = [name for name in type(self).model_fields if name not in seen]
        pairs = [(name, getattr(self, name), getattr(own, name)) for name in names]
        mine, its = self.training, own.training
        pairs.append(("training", mine.length, its.length))
        names = [name for name in Training.model_fields if name not in ("steps", "epochs")]
        pairs += [(name, getattr(mine, name), getattr(its, name)) for name in names]
        return [f"{name} {_told(value)} (recipe: {_told(other)})" for name, value, other in pairs if value != other]


def _told(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_told, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def known_arms() -> tuple[str, ...]:
    """Arms that have a plain name."""
    return (*ARMS, *sorted(path.stem for path in Path(__file__).parent.glob("*.yaml")))
