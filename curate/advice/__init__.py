"""advise(): which source of responses suits the target model."""

from curate.advice.advising import Advice, SourceFacts, advise
from curate.advice.picture import draw
from curate.advice.rule import EVIDENCE, Evidence, Regret, ranking

__all__ = ["EVIDENCE", "Advice", "Evidence", "Regret", "SourceFacts", "advise", "draw", "ranking"]
