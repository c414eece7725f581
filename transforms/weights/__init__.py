"""Weights by name, hash and licence: where they lie (`locate`) and how they come (`pull`)."""

from transforms.weights.find import MissingWeights, Weight, cache_folder, locate

__all__ = ["MissingWeights", "Weight", "cache_folder", "locate"]
