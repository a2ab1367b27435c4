"""compare(): whether a small model can stand in for the target where a recipe scores by it."""

from curate.proxy.agreement import RankAgreement
from curate.proxy.comparing import Comparison, Scoring, compare

__all__ = ["Comparison", "RankAgreement", "Scoring", "compare"]
