"""Weights by name, hash and licence: where they lie (`locate`) and how they come (`pull`)."""

from transforms.weights.find import MissingWeights, Weight, cache_folder, locate
from transforms.weights.pull import ModelInfo, PullError, describe, list_models, pull, verify
from transforms.weights.table import UnknownWeights

__all__ = [
    "MissingWeights",
    "ModelInfo",
    "PullError",
    "UnknownWeights",
    "Weight",
    "cache_folder",
    "describe",
    "list_models",
    "locate",
    "pull",
    "verify",
]
