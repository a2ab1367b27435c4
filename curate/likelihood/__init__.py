"""The language model's opinion of completions: what is scored is what would be trained, all statistics from one forward pass."""

from curate.likelihood.batching import plan_batches
from curate.likelihood.engine import Engine, load_engine
from curate.likelihood.joint import JointSums, Pair, check_vocabularies, load_pair
from curate.likelihood.model import LanguageModel, ModelSpec, default_device, model_identity
from curate.likelihood.rendering import ChatTemplateError, Rendered, Renderer, Turn, Turns, Unrenderable
from curate.likelihood.running import OutOfMemory
from curate.likelihood.statistics import TokenScores, TokenSums, TurnSums

__all__ = [
    "ChatTemplateError",
    "Engine",
    "JointSums",
    "LanguageModel",
    "ModelSpec",
    "OutOfMemory",
    "Pair",
    "Rendered",
    "Renderer",
    "TokenScores",
    "TokenSums",
    "Turn",
    "TurnSums",
    "Turns",
    "Unrenderable",
    "check_vocabularies",
    "default_device",
    "load_engine",
    "load_pair",
    "model_identity",
    "plan_batches",
]
