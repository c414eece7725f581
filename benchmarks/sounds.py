"""Sounds in which nobody speaks, made from a seed, and room tone cut from the pauses of real meetings."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.signal import butter, chirp, sosfilt

from benchmarks.common import DATA, clips
from transforms.resample import resample

RATE_HZ = 16000
SPEECH_LIKE = frozenset({"reversed speech", "babble"})
"""Kinds made of voices: no word is said in them, but a VAD is right to hear speech."""


@dataclass(frozen=True)
class Sound:
    """float32 `[n]` at 16 kHz; `kind` groups the rows of the table."""

    kind: str
    name: str
    samples: np.ndarray


def sounds(seconds: float = 20.0, seed: int = 0, *, real: bool = True) -> list[Sound]:
    """Every sound, `seconds` each (room tone: as much as there is). `real`: also those cut from real recordings."""
    n = round(seconds * RATE_HZ)
    found = [
        Sound(kind, name, make(np.random.default_rng([seed, i]), n).astype(np.float32))
        for i, (kind, name, make) in enumerate(_makers())
    ]
    if real:
        found += [Sound("room tone", name, tone) for name, tone in room_tones(seconds)]
        found += _speech_like(np.random.default_rng([seed, 1000]), n)
    return found


def _makers() -> Iterator[tuple[str, str, Callable[[np.random.Generator, int], np.ndarray]]]:
    yield "silence", "zeros", lambda _, n: np.zeros(n)
    for colour, slope in (("white", 0.0), ("pink", 0.5), ("brown", 1.0)):
        for db in (-60, -40, -25, -10):
            yield f"{colour} noise", f"{db} dB", lambda r, n, slope=slope, db=db: level(coloured(r, n, slope), db)
    for hz in (50, 60):
        for db in (-45, -20):
            yield "mains hum", f"{hz} Hz, {db} dB", partial(hum, hz=hz, db=db)
    for name, make in (("tone", tone), ("chords", chords), ("melody", melody)):
        yield "music-like", name, lambda r, n, make=make: level(make(r, n), -20)
    yield "chirps", "0.1-4 kHz", lambda _, n: level(chirps(n), -20)
    yield "clicks", "metronome", lambda _, n: level(clicks(np.arange(0, n, RATE_HZ // 2), n), -25)
    yield "clicks", "irregular", lambda r, n: level(clicks(np.sort(r.integers(0, n, n // 8000)), n), -25)
    for db in (-45, -25):
        yield "breaths", f"{db} dB", lambda r, n, db=db: level(breaths(r, n), db)
    for rate in (8, 60, 400):
        yield "applause", f"{rate} claps a second", lambda r, n, rate=rate: level(applause(r, n, rate), -20)
    for db in (-40, -20):
        yield "rain", f"{db} dB", lambda r, n, db=db: level(rain(r, n), db)
    for hz in (25, 90):
        yield "engine", f"{hz} strokes a second", lambda r, n, hz=hz: level(engine(r, n, hz), -20)


def level(samples: np.ndarray, db: float) -> np.ndarray:
    """Scale to a root mean square of `db` dB of full scale, clipped at full scale as a recorder would."""
    power = np.square(samples).mean()
    return np.clip(samples * np.sqrt(10 ** (db / 10) / power), -1, 1) if power > 0 else samples


def coloured(random: np.random.Generator, n: int, slope: float) -> np.ndarray:
    """Gaussian noise whose amplitude falls with frequency to the power of `slope`: 0 white, 0.5 pink, 1 brown."""
    spectrum = np.fft.rfft(random.normal(size=n))
    frequency = np.fft.rfftfreq(n, 1 / RATE_HZ)
    spectrum[frequency < 20] = 0  # microphones and recorders pass nothing there
    spectrum[1:] /= frequency[1:] ** slope
    return np.fft.irfft(spectrum, n)


def hum(random: np.random.Generator, n: int, hz: float, db: float) -> np.ndarray:
    """Mains hum: 20 harmonics falling in level, and a little noise."""
    t = np.arange(n) / RATE_HZ
    phases = random.uniform(0, 2 * np.pi, 20)
    wave = sum(np.sin(2 * np.pi * hz * (k + 1) * t + phases[k]) / (k + 1) for k in range(20))
    return level(wave + 0.01 * random.normal(size=n), db)


def tone(random: np.random.Generator, n: int, hz: float = 220.0) -> np.ndarray:
    """A harmonic tone with a vibrato of 5.5 Hz, half a semitone deep."""
    t = np.arange(n) / RATE_HZ
    phase = 2 * np.pi * np.cumsum(hz * 2 ** (0.5 / 12 * np.sin(2 * np.pi * 5.5 * t + random.uniform(0, 6)))) / RATE_HZ
    made: np.ndarray = sum((np.sin(k * phase) / k for k in range(1, 9)), np.zeros(n))
    return made


def chords(random: np.random.Generator, n: int) -> np.ndarray:
    """A triad every 2 s, with vibrato, swelling and fading."""
    parts = []
    for _ in range(-(-n // (2 * RATE_HZ))):
        root = 110 * 2 ** (random.integers(0, 12) / 12)
        notes = sum(tone(random, 2 * RATE_HZ, root * ratio) for ratio in (1, 2 ** (4 / 12), 2 ** (7 / 12)))
        parts.append(notes * np.hanning(2 * RATE_HZ))
    return np.concatenate(parts)[:n]


def melody(random: np.random.Generator, n: int) -> np.ndarray:
    """Plucked notes of a pentatonic scale, four a second."""
    made = np.zeros(n)
    for start in range(0, n, RATE_HZ // 4):
        t = np.arange(min(RATE_HZ, n - start)) / RATE_HZ
        hz = 220 * 2 ** (random.choice([0, 2, 4, 7, 9, 12, 14, 16]) / 12)
        made[start : start + len(t)] += sum(
            np.sin(2 * np.pi * hz * k * t) * np.exp(-(2 + 2 * k) * t) / k for k in range(1, 6)
        )
    return made


def chirps(n: int) -> np.ndarray:
    """Sweeps from 100 Hz to 4 kHz, 1.5 s each with 0.5 s of silence behind."""
    t = np.arange(3 * RATE_HZ // 2) / RATE_HZ
    one = np.pad(chirp(t, 100, t[-1], 4000, "logarithmic"), (0, RATE_HZ // 2))
    return np.resize(one, n)


def clicks(starts: Sequence[int] | np.ndarray, n: int) -> np.ndarray:
    """A damped knock of 10 ms at each sample of `starts`."""
    t = np.arange(RATE_HZ // 50) / RATE_HZ
    impulses = np.zeros(n)
    np.add.at(impulses, np.asarray(starts, int), 1.0)
    return np.convolve(impulses, np.sin(2 * np.pi * 1800 * t) * np.exp(-t / 0.003))[:n]


def band(samples: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    filtered: np.ndarray = sosfilt(butter(2, (low_hz, high_hz), "bandpass", fs=RATE_HZ, output="sos"), samples)
    return filtered


def breaths(random: np.random.Generator, n: int) -> np.ndarray:
    """In and out every 3 to 5 s: noise through a vocal tract's first bands, 0.8 to 1.5 s long."""
    made = np.zeros(n)
    at = 0
    while at < n:
        length = min(int(random.uniform(0.8, 1.5) * RATE_HZ), n - at)
        noise = random.normal(size=length)
        made[at : at + length] = (band(noise, 400, 1200) + 0.5 * band(noise, 1500, 4000)) * np.hanning(length)
        at += int(random.uniform(1.5, 2.5) * RATE_HZ)
    return made


def applause(random: np.random.Generator, n: int, rate: float) -> np.ndarray:
    """Claps at the times of a Poisson process, each a burst of noise of its own pitch and loudness, 5 to 20 ms."""
    made = np.zeros(n)
    for start in random.integers(0, n, random.poisson(rate * n / RATE_HZ)):
        t = np.arange(min(RATE_HZ // 20, n - start)) / RATE_HZ
        ringing = 1 + np.cos(2 * np.pi * random.uniform(800, 2500) * t)
        burst = random.normal(size=len(t)) * np.exp(-t / random.uniform(0.005, 0.02)) * ringing
        made[start : start + len(t)] += random.uniform(0.3, 1.0) * burst
    return made


def rain(random: np.random.Generator, n: int) -> np.ndarray:
    """Noise from 1 kHz up, and drops."""
    return band(random.normal(size=n), 1000, 7000) + 3 * clicks(random.integers(0, n, n // 400), n)


def engine(random: np.random.Generator, n: int, hz: float) -> np.ndarray:
    """Strokes whose rate wanders by a few percent, each a burst of low noise."""
    wander = np.interp(np.arange(n), np.linspace(0, n, 20), random.uniform(0.95, 1.05, 20))
    phase = np.cumsum(hz * wander) / RATE_HZ % 1
    made: np.ndarray = np.exp(-6 * phase) * (1 + band(random.normal(size=n), 60, 1200)) - 0.2
    return made


def room_tones(seconds: float) -> list[tuple[str, np.ndarray]]:
    """The stretches of the AMI meetings in which no turn lies (speakers.rttm), joined, in pieces of `seconds`."""
    import soundfile

    turns: dict[str, list[tuple[float, float]]] = {}
    for line in (DATA / "ami" / "speakers.rttm").read_text().splitlines():
        _, meeting, _, start, length, *_ = line.split()
        turns.setdefault(meeting, []).append((float(start), float(start) + float(length)))
    made = []
    for meeting, spans in sorted(turns.items()):
        samples, rate_hz = soundfile.read(DATA / "ami" / f"{meeting}.flac", dtype="float32", always_2d=True)
        samples = resample(samples.mean(axis=1), rate_hz, RATE_HZ)
        for start_s, end_s in pauses(spans, len(samples) / RATE_HZ):
            cut = samples[int(start_s * RATE_HZ) : int(end_s * RATE_HZ)].copy()
            fade = np.linspace(0, 1, RATE_HZ // 100)
            cut[: len(fade)] *= fade
            cut[-len(fade) :] *= fade[::-1]
            made.append(cut)
    whole = np.concatenate(made)
    step = round(seconds * RATE_HZ)
    return [(f"AMI pauses {i}", whole[at : at + step]) for i, at in enumerate(range(0, len(whole), step))]


def pauses(
    turns: Sequence[tuple[float, float]], duration_s: float, margin_s: float = 0.25
) -> list[tuple[float, float]]:
    """Times of 0.5 s or more in which no turn lies, `margin_s` away from each; turns may overlap and come in any order."""
    found = []
    at = 0.0
    for start, end in [*sorted(turns), (duration_s, duration_s)]:
        low, high = at + margin_s if at else 0.0, start - margin_s if start < duration_s else duration_s
        if high - low >= 0.5:
            found.append((low, high))
        at = max(at, end)
    return found


def _speech_like(random: np.random.Generator, n: int) -> list[Sound]:
    voices = [c.samples / np.abs(c.samples).max() for c in clips("librispeech-test-other.jsonl", 24)]
    random.shuffle(voices)  # type: ignore[arg-type]
    found = []
    for i in range(3):
        backwards = np.resize(np.concatenate(voices[8 * i : 8 * i + 4])[::-1], n)
        found.append(Sound("reversed speech", f"voices {i}", level(backwards, -25)))
        babble = sum(np.resize(voice, n) for voice in voices[8 * i : 8 * i + 8])
        found.append(Sound("babble", f"8 voices {i}", level(babble, -25)))
    return found
