"""Small models that are learnt from the user's own rows: text features, linear models, validation by prompt."""

from curate.learning.features import FeatureSettings, collapse_white_space, surface_features
from curate.learning.linear import Fitted, LinearModel, fit_linear

__all__ = ["FeatureSettings", "Fitted", "LinearModel", "collapse_white_space", "fit_linear", "surface_features"]
