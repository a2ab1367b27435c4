"""Linear models of texts: logistic and ridge regression, judged on prompts they have not seen, saved without pickle."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from curate.errors import InputError, ModelError
from curate.learning.features import SURFACE, FeatureSettings, hashed_matrix, surface_matrix

Floats = npt.NDArray[np.float64]
Kind = Literal["logistic", "ridge"]
FOLDS = 5
_FORMAT = 1
_JSON, _WEIGHTS = "linear_model.json", "linear_model.safetensors"
_MOST_BYTES = 1 << 28


@dataclass(frozen=True)
class LinearModel:
    """A weighted sum of features. A value: predictions depend on nothing else."""

    kind: Kind
    settings: FeatureSettings
    weights: Floats
    """(features,): surface features first, then hashed n-grams."""
    intercept: float
    center: Floats
    """(surface features,): what is subtracted before ..."""
    scale: Floats
    """... what is divided by."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What it was fitted on and how it did; as JSON."""

    def decide(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Floats:
        """Log-odds of the positive class (logistic) or the predicted value (ridge); (texts,)."""
        if not len(texts):
            return np.empty(0)
        given = [""] * len(texts) if prompts is None else prompts
        result = np.full(len(texts), self.intercept)
        if self.settings.surface:
            surface = (surface_matrix(texts, given) - self.center) / self.scale
            result += surface @ self.weights[: len(SURFACE)]
        hashed = hashed_matrix(texts, self.settings)
        if hashed is not None:
            result += hashed @ self.weights[len(self.weights) - hashed.shape[1] :]
        return result

    def digest(self) -> str:
        """A hash of all that predictions depend on."""
        total = hashlib.sha256(json.dumps([self.kind, asdict(self.settings), self.intercept]).encode())
        for array in (self.weights, self.center, self.scale):
            total.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return total.hexdigest()

    def save(self, folder: Path) -> None:
        """Write the model as JSON and safetensors; nothing in either can run."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        arrays = {"weights": self.weights, "center": self.center, "scale": self.scale}
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / _WEIGHTS)
        facts = {"format": _FORMAT, "kind": self.kind, "settings": asdict(self.settings), "intercept": self.intercept}
        text = json.dumps({**facts, "surface": list(SURFACE), "digest": self.digest(), "facts": dict(self.facts)}, indent=1)
        (folder / _JSON).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "LinearModel":
        """A saved model. Raises ModelError for a folder that holds none, or one that is damaged or of another version."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            for name in (_JSON, _WEIGHTS):
                if (folder / name).stat().st_size > _MOST_BYTES:
                    raise ModelError(f"{folder / name}: {_MOST_BYTES >> 20} MB at most; that is no model of curate")
            facts = json.loads((folder / _JSON).read_text("utf-8"))
            arrays = load_file(folder / _WEIGHTS)
            settings: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in facts["settings"].items()
            }
            if facts["format"] != _FORMAT or tuple(facts["surface"]) != SURFACE:
                raise ModelError(f"{folder}: was learnt by another version of curate, with other features; learn it again")
            model = cls(
                facts["kind"],
                FeatureSettings(**settings),
                *(arrays["weights"], float(facts["intercept"]), arrays["center"], arrays["scale"]),
                facts=facts["facts"],
            )
            is_whole = model.digest() == facts["digest"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise ModelError(f"{folder}: holds no model that curate has learnt ({type(error).__name__}: {error})") from error
        if not is_whole:
            raise ModelError(f"{folder}: was changed since it was saved; learn it again")
        return model


@dataclass(frozen=True)
class Fitted:
    """A model, and what models like it say of rows whose prompts they have not seen."""

    model: LinearModel
    held_out: Floats
    """(texts,): log-odds or values from the fold that left the row's prompt out."""


def fit_linear(
    kind: Kind,
    texts: Sequence[str],
    targets: Sequence[float],
    groups: Sequence[str],
    *,
    prompts: Sequence[str] | None = None,
    settings: FeatureSettings | None = None,
    strength: float = 1.0,
    facts: Mapping[str, Any] | None = None,
) -> Fitted:
    """Fit on all rows, and on all but each fold of prompts in turn; `groups` names the prompt of every row.

    `strength` is the weight of the data against the penalty (sklearn's C, or 1/alpha). It is given, not chosen here: a choice
    made on the held-out rows would flatter them. Classes are weighted equally. Raises InputError where there is too little.
    """
    settings = settings or FeatureSettings()
    wanted = np.asarray(targets, dtype=np.float64)
    held = len(set(groups))
    if held < 2 or (kind == "logistic" and len(np.unique(wanted)) < 2):
        what = "rows of both classes" if held >= 2 else "rows of at least two prompts"
        raise InputError(f"{what} are needed to learn from; there are {len(texts)} rows of {held} prompts")
    surface = surface_matrix(texts, [""] * len(texts) if prompts is None else prompts) if settings.surface else None
    hashed = hashed_matrix(texts, settings)
    held_out = np.full(len(texts), np.nan)
    for train, test in _folds(kind, wanted, groups):
        part = _fit(kind, surface, hashed, wanted, train, strength)
        held_out[test] = part.decide(surface, hashed, test)
    whole = _fit(kind, surface, hashed, wanted, np.arange(len(texts)), strength)
    told = {"rows": len(texts), "prompts": held, "folds": min(FOLDS, held), "strength": strength, **(facts or {})}
    model = LinearModel(kind, settings, whole.weights, whole.intercept, whole.center, whole.scale, told)
    return Fitted(model, held_out)


def _folds(kind: Kind, targets: Floats, groups: Sequence[str]) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Train and test rows of every fold; no prompt is on both sides."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    names = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)[1]
    count = min(FOLDS, len(np.unique(names)))
    if kind == "ridge":
        return list(GroupKFold(count, shuffle=True, random_state=0).split(targets, targets, names))
    folds = list(StratifiedGroupKFold(count, shuffle=True, random_state=0).split(targets, targets, names))
    if any(len(np.unique(targets[train])) < 2 for train, _ in folds):
        raise InputError("one class stands in too few prompts to be left out in turn; label rows of more prompts")
    return folds


@dataclass(frozen=True)
class _Part:
    weights: Floats
    intercept: float
    center: Floats
    scale: Floats

    def decide(self, surface: Floats | None, hashed: Any, rows: npt.NDArray[np.int64]) -> Floats:
        result = np.full(len(rows), self.intercept)
        if surface is not None:
            result += (surface[rows] - self.center) / self.scale @ self.weights[: len(SURFACE)]
        if hashed is not None:
            result += hashed[rows] @ self.weights[len(self.weights) - hashed.shape[1] :]
        return result


def _fit(kind: Kind, surface: Floats | None, hashed: Any, targets: Floats, rows: npt.NDArray[np.int64], strength: float) -> _Part:
    """One fit; features are standardised with what the training rows show."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.linear_model import LogisticRegression, Ridge

    center, scale = np.zeros(len(SURFACE)), np.ones(len(SURFACE))
    parts = []
    if surface is not None:
        center, scale = surface[rows].mean(axis=0), surface[rows].std(axis=0)
        scale[scale == 0] = 1.0
        parts.append(csr_matrix((surface[rows] - center) / scale))
    if hashed is not None:
        parts.append(hashed[rows])
    features = hstack(parts, format="csr")
    if kind == "logistic":
        learner = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
    else:
        learner = Ridge(alpha=1 / strength, solver="sparse_cg", tol=1e-8, max_iter=5000)
    learner.fit(features, targets[rows])
    return _Part(np.ravel(learner.coef_), float(np.ravel(learner.intercept_)[0]), center, scale)
