"""From the working rate to the rate that a model reads."""

import numpy as np


def resample(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """float32 `[n]` at `from_hz` -> float32 `[round(n * to_hz / from_hz)]` at `to_hz`. The same samples where the rates agree."""
    if from_hz == to_hz:
        return np.ascontiguousarray(samples, dtype=np.float32)
    import soxr

    wanted = round(len(samples) * to_hz / from_hz)
    resampled = soxr.resample(samples.astype(np.float32, copy=False), from_hz, to_hz)
    # The library's own length may differ by a sample; frame counts are checked against the length, so it is made exact.
    return np.pad(resampled, (0, max(0, wanted - len(resampled))))[:wanted].astype(np.float32)
