"""Weights by name, hash and licence: where they lie (`locate`) and how they come (`pull`)."""

from transforms.weights.find import MissingWeights, Weight, cache_folder, locate
from transforms.weights.pull import ModelInfo, PullError, describe, list_models, pull, run_pull

__all__ = [
    "MissingWeights",
    "ModelInfo",
    "PullError",
    "Weight",
    "cache_folder",
    "describe",
    "list_models",
    "locate",
    "pull",
    "run_pull",
]
