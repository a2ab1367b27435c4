"""The shipped filters; importing this package registers them."""

from curate.filters.base import Filter, Scores, Unscored, build_filter, known_filters, register
from curate.filters.entropy import Entropy
from curate.filters.likelihood import Likelihood
from curate.filters.perplexity import Perplexity

__all__ = [
    "Entropy",
    "Filter",
    "Likelihood",
    "Perplexity",
    "Scores",
    "Unscored",
    "build_filter",
    "known_filters",
    "register",
]
