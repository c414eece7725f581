"""The sounds in which nobody speaks, and that no word comes of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import invented
from benchmarks.sounds import RATE_HZ, SPEECH_LIKE, coloured, level, pauses, sounds


def test_there_are_ten_minutes_of_finite_sounds_the_same_each_time(shared: object) -> None:
    found = sounds()
    silent = [sound for sound in found if sound.kind not in SPEECH_LIKE]
    assert sum(len(sound.samples) for sound in silent) >= 600 * RATE_HZ
    assert len({(sound.kind, sound.name) for sound in found}) == len(found)
    for sound, again in zip(found, sounds(), strict=True):
        assert np.isfinite(sound.samples).all()
        assert np.abs(sound.samples).max() <= 1
        assert np.array_equal(sound.samples, again.samples)


def test_noise_has_its_level_and_its_colour() -> None:
    for slope in (0.0, 0.5, 1.0):
        noise = level(coloured(np.random.default_rng(0), 1 << 17, slope), -40)
        assert 10 * np.log10(np.square(noise).mean()) == pytest.approx(-40, abs=0.01)
        power = np.square(np.abs(np.fft.rfft(noise)))
        hz = np.fft.rfftfreq(len(noise), 1 / RATE_HZ)
        octaves = [power[(hz >= low) & (hz < 2 * low)].mean() for low in (250, 1000)]
        # Two octaves up, power falls by 4 to the power of twice the slope.
        assert octaves[0] / octaves[1] == pytest.approx(16**slope, rel=0.15)


turns = st.lists(st.tuples(st.floats(0, 60), st.floats(0.01, 20)).map(lambda t: (t[0], t[0] + t[1])), max_size=9)


@given(turns)
def test_no_turn_lies_in_a_pause(found: list[tuple[float, float]]) -> None:
    for low, high in pauses(found, 80.0):
        assert 0 <= low < high <= 80
        assert all(high <= start or low >= end for start, end in found)


def test_a_pause_lies_between_turns() -> None:
    assert pauses([(5.0, 6.0), (2.0, 5.5), (6.4, 7.0)], 10.0) == [(0.0, 1.75), (7.25, 10.0)]


def test_no_word_of_noise_hum_breath_or_applause_is_kept(shared: object) -> None:
    """The whole way, with real Whisper behind the VAD; the table counts what it counts."""
    found = [
        s for s in sounds(3.0, real=False) if s.kind in {"silence", "white noise", "mains hum", "breaths", "applause"}
    ]
    heard = invented.by_pipeline(found, vad=True)
    assert [h.kept for h in heard] == [0] * len(found)
    assert all(h.reasons for h in heard)
    assert "| all without speech |" in invented.report(found, {"antiphon": heard})
