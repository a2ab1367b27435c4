"""The shipped filters; importing this package registers them."""

from curate.filters.base import Filter, Scores, Unscored, build_filter, known_filters, register

__all__ = ["Filter", "Scores", "Unscored", "build_filter", "known_filters", "register"]
