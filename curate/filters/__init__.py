"""The shipped filters; importing this package registers them."""

from curate.filters.base import Filter, Scores, Unscored, build_filter, known_filters, register
from curate.filters.binoculars import Binoculars
from curate.filters.compression import Compression
from curate.filters.consensus import Consensus
from curate.filters.contamination import Contamination
from curate.filters.detector_model import DetectorModel
from curate.filters.detectors import Detectors
from curate.filters.distinct import Distinct
from curate.filters.entropy import Entropy
from curate.filters.errors import Errors
from curate.filters.few_shot import FewShot
from curate.filters.ifd import InstructionFollowingDifficulty
from curate.filters.learned_detector import LearnedDetector
from curate.filters.length import Length
from curate.filters.likelihood import Likelihood
from curate.filters.near_duplicate import NearDuplicate
from curate.filters.perplexity import Perplexity
from curate.filters.predicted_bleu import PredictedBleu
from curate.filters.readability import Readability
from curate.filters.self_aligned import SelfAligned
from curate.filters.self_bleu import SelfBleu
from curate.filters.tells import Tells
from curate.filters.token_nll import TokenNll
from curate.filters.toxicity import Toxicity
from curate.filters.turns import Turns
from curate.filters.unit_tests import UnitTests

__all__ = [
    "Binoculars",
    "Compression",
    "Consensus",
    "Contamination",
    "DetectorModel",
    "Detectors",
    "Distinct",
    "Entropy",
    "Errors",
    "FewShot",
    "Filter",
    "InstructionFollowingDifficulty",
    "LearnedDetector",
    "Length",
    "Likelihood",
    "NearDuplicate",
    "Perplexity",
    "PredictedBleu",
    "Readability",
    "Scores",
    "SelfAligned",
    "SelfBleu",
    "Tells",
    "TokenNll",
    "Toxicity",
    "Turns",
    "UnitTests",
    "Unscored",
    "build_filter",
    "known_filters",
    "register",
]
