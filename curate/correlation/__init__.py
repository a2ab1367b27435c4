"""correlate(): how scores, length and source of a scored data set hang together."""

from curate.correlation.correlating import Correlations, Field, correlate
from curate.correlation.picture import draw
from curate.correlation.shares import Shares, omega_squared, shares
from curate.correlation.spearman import rank_correlation

__all__ = ["Correlations", "Field", "Shares", "correlate", "draw", "omega_squared", "rank_correlation", "shares"]
