"""The learning rate of the fits of small networks."""

import math

WARM_UP = 100
"""Steps."""


def warm_cosine(step: int, steps: int) -> float:
    """The share of the peak learning rate at a 0-based step: up in a line, and down in half a cosine to 2 %."""
    return min(1.0, (step + 1) / WARM_UP) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
