"""How well an utterance was recorded, and how fast it was spoken: plain numbers from the samples, one column each."""

import numpy as np

from schemas import Block, Utterance
from transforms.options import Options
from transforms.segment import framewise_energy
from transforms.stage import Stage

_FLOOR = 1e-10
"""Power of -100 dB: digital silence gives large numbers instead of infinite ones."""


class MeasureOptions(Options):
    """The measures of recording and speech that become columns."""

    clip_level: float = 0.999
    """Samples at or above this share of full scale count as clipped."""


class Measure(Stage):
    """Sets the `quality_*` columns."""

    name = "measure"

    def __init__(self, options: MeasureOptions) -> None:
        super().__init__(options)
        self._options = options

    def __call__(self, block: Block) -> Block:
        for utterance in block.utterances:
            utterance.columns |= measure(utterance, self._options)
        return block


def measure(utterance: Utterance, options: MeasureOptions) -> dict[str, float]:
    """The columns of one utterance: dB, shares and rates as `schemas.record.FIELDS` words them."""
    samples = utterance.samples
    levels = np.sort(framewise_energy(samples, utterance.rate_hz)) + _FLOOR
    tenth = max(1, len(levels) // 10)
    # Of speech with pauses the loudest half is voice, and the quietest tenth what the room sounds like.
    snr_db = 10 * np.log10(levels[len(levels) // 2 :].mean() / levels[:tenth].mean())
    letters = sum(c.isalnum() for c in utterance.text)
    return {
        "quality_snr_db": float(snr_db),
        "quality_peak": float(np.abs(samples).max()),
        "quality_clipped_share": float((np.abs(samples) >= options.clip_level).mean()),
        "quality_rms_db": float(10 * np.log10(np.square(samples, dtype=np.float64).mean() + _FLOOR)),
        "quality_bandwidth_hz": bandwidth_hz(samples, utterance.rate_hz),
        "quality_chars_per_s": letters / utterance.duration_s,
    }


def bandwidth_hz(samples: np.ndarray, rate_hz: int, share: float = 0.99) -> float:
    """Hz under which `share` of the energy lies; an 8 kHz recording brought to 16 kHz shows itself here."""
    window = 1024
    padded = np.pad(samples, (0, -len(samples) % window)).reshape(-1, window) * np.hanning(window)
    power = np.square(np.abs(np.fft.rfft(padded, axis=1))).sum(axis=0)
    total = np.cumsum(power)
    if total[-1] <= 0:
        return 0.0
    return float(np.searchsorted(total, share * total[-1]) * rate_hz / window)
