"""How well an utterance was recorded, and how fast it was spoken: plain numbers from the samples, one column each."""

import numpy as np

from schemas import Block, Utterance
from transforms.options import Options
from transforms.pitch import f0_hz
from transforms.resample import resample
from transforms.segment import framewise_energy
from transforms.stage import Stage
from transforms.weights import locate

_FLOOR = 1e-10
"""Power of -100 dB: digital silence gives large numbers instead of infinite ones."""


class MeasureOptions(Options):
    """The measures of recording and speech that become columns."""

    clip_level: float = 0.999
    """Samples at or above this share of full scale count as clipped."""
    pitch: bool = True
    """Fundamental frequency: its median and range."""
    dnsmos: bool = False
    """What listeners would say of the sound, 1 to 5, as DNSMOS guesses it: the slowest of the measures. Weights: `dnsmos`."""


class Measure(Stage):
    """Sets the `quality_*` columns."""

    name = "measure"
    version = 2

    def __init__(self, options: MeasureOptions) -> None:
        super().__init__(options)
        self._options = options

    def setup(self) -> None:
        """Raises MissingWeights where DNSMOS is asked for and not on this machine."""
        if self._options.dnsmos:
            from transforms.dnsmos import DnsMos

            self._dnsmos = DnsMos(locate("dnsmos").path)

    def weights(self) -> dict[str, str]:
        return {"dnsmos": locate("dnsmos").sha256} if self._options.dnsmos else {}

    def __call__(self, block: Block) -> Block:
        for utterance in block.utterances:
            utterance.columns |= measure(utterance, self._options)
            if self._options.pitch:
                utterance.columns |= pitch(utterance)
            if self._options.dnsmos:
                utterance.columns |= self._listened(utterance)
        return block

    def _listened(self, utterance: Utterance) -> dict[str, float]:
        from transforms.dnsmos import RATE_HZ

        scores = self._dnsmos.score(resample(utterance.samples, utterance.rate_hz, RATE_HZ))
        names = {name: f"quality_dnsmos_{name}" for name in scores} | {"overall": "quality_dnsmos"}
        return {names[name]: score for name, score in scores.items()}


def measure(utterance: Utterance, options: MeasureOptions) -> dict[str, float]:
    """The columns of one utterance: dB, shares and rates as `schemas.record.FIELDS` words them."""
    samples = utterance.samples
    levels = np.sort(framewise_energy(samples, utterance.rate_hz)) + _FLOOR
    tenth = max(1, len(levels) // 10)
    # Of speech with pauses the loudest half is voice, and the quietest tenth what the room sounds like.
    snr_db = 10 * np.log10(levels[len(levels) // 2 :].mean() / levels[:tenth].mean())
    letters = sum(c.isalnum() for c in utterance.text)
    found = {
        "quality_snr_db": float(snr_db),
        "quality_peak": float(np.abs(samples).max()),
        "quality_clipped_share": float((np.abs(samples) >= options.clip_level).mean()),
        "quality_rms_db": float(10 * np.log10(np.square(samples, dtype=np.float64).mean() + _FLOOR)),
        "quality_bandwidth_hz": bandwidth_hz(samples, utterance.rate_hz),
        "quality_chars_per_s": letters / utterance.duration_s,
    }
    words = utterance.words
    if words and words[-1].end_s > words[0].start_s:
        found["quality_words_per_s"] = len(words) / (words[-1].end_s - words[0].start_s)
    return found


def pitch(utterance: Utterance) -> dict[str, float]:
    """Median, 5th and 95th percentile of the fundamental frequency in Hz, where 0.1 s are voiced, and the share that is."""
    track = f0_hz(utterance.samples, utterance.rate_hz)
    if not len(track):
        return {}
    found = {"quality_voiced_share": float((track > 0).mean())}
    voiced = track[track > 0]
    if len(voiced) >= 10:
        names = ("quality_pitch_low_hz", "quality_pitch_hz", "quality_pitch_high_hz")
        found |= dict(zip(names, map(float, np.percentile(voiced, [5, 50, 95])), strict=True))
    return found


def bandwidth_hz(samples: np.ndarray, rate_hz: int, share: float = 0.99) -> float:
    """Hz under which `share` of the energy lies; an 8 kHz recording brought to 16 kHz shows itself here."""
    window = 1024
    padded = np.pad(samples, (0, -len(samples) % window)).reshape(-1, window) * np.hanning(window)
    power = np.square(np.abs(np.fft.rfft(padded, axis=1))).sum(axis=0)
    total = np.cumsum(power)
    if total[-1] <= 0:
        return 0.0
    return float(np.searchsorted(total, share * total[-1]) * rate_hz / window)
