"""Measures against signals whose numbers are known, and filters against measures."""

import numpy as np
import pytest

from schemas import Block, Reason, Utterance, Word
from tests.conftest import Clip
from transforms.filter import Filter, FilterOptions, judge
from transforms.measure import Measure, MeasureOptions, bandwidth_hz, measure


def utterance(samples: np.ndarray, text: str = "ten letters") -> Utterance:
    made = Utterance("a", -1, 0, len(samples), samples.astype(np.float32), 16000, text=text)
    made.words = [Word(w, 0, 1, 0.9, "gmm") for w in text.split()]
    return made


def test_known_signals_have_known_numbers() -> None:
    t = np.arange(32000) / 16000
    tone = 0.5 * np.sin(2 * np.pi * 1000 * t)
    found = measure(utterance(tone), MeasureOptions())
    assert found["quality_peak"] == pytest.approx(0.5, abs=1e-3)
    assert found["quality_rms_db"] == pytest.approx(-9.03, abs=0.01)
    assert found["quality_bandwidth_hz"] == pytest.approx(1000, abs=40)
    assert found["quality_clipped_share"] == 0
    assert found["quality_chars_per_s"] == 5.0
    assert measure(utterance(np.clip(4 * tone, -1, 1)), MeasureOptions())["quality_clipped_share"] > 0.5


def test_noise_lowers_the_signal_to_noise_ratio(speech: list[Clip]) -> None:
    clean = speech[0].samples
    power = float(np.square(clean).mean())
    noise = np.random.default_rng(0).normal(0, 1, len(clean))
    found = [
        measure(utterance(clean + noise * np.sqrt(power / 10 ** (db / 10))), MeasureOptions())["quality_snr_db"]
        for db in (30, 20, 10, 0)
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] - found[-1] > 15


def test_a_telephone_band_shows(speech: list[Clip]) -> None:
    import soxr

    narrow = soxr.resample(soxr.resample(speech[0].samples, 16000, 6000), 6000, 16000)
    assert bandwidth_hz(narrow, 16000) < 3100
    assert bandwidth_hz(np.zeros(16000, np.float32), 16000) == 0.0


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("asr_avg_logprob", -1.2, Reason.UNSURE),
        ("asr_no_speech_prob", 0.95, Reason.UNSURE),
        ("asr_compression_ratio", 3.0, Reason.UNSURE),
        ("align_score", 0.01, Reason.UNALIGNED),
        ("text_chars_per_s", 60.0, Reason.TOO_FAST),
        ("text_repeat_share", 0.75, Reason.REPEATS),
        ("text_loops", 9, Reason.REPEATS),
        ("asr_given_language_prob", 0.01, Reason.OTHER_LANGUAGE),
    ],
)
def test_each_threshold_has_its_reason_and_says_both_numbers(column: str, value: float, reason: Reason) -> None:
    made = utterance(np.ones(16000))
    assert judge(made, FilterOptions(), "gmm") is None
    made.columns[column] = value
    verdict = judge(made, FilterOptions(), "gmm")
    assert verdict is not None
    assert verdict[0] is reason
    assert column in verdict[1]
    assert f"{value:.2f}" in verdict[1]


@pytest.mark.parametrize(
    ("column", "value", "threshold", "reason"),
    [
        ("quality_snr_db", 8.0, {"min_snr_db": 10.0}, Reason.POOR_SOUND),
        ("quality_clipped_share", 0.2, {"max_clipped_share": 0.1}, Reason.POOR_SOUND),
        ("quality_bandwidth_hz", 3400.0, {"min_bandwidth_hz": 4000.0}, Reason.POOR_SOUND),
        ("quality_dnsmos", 2.1, {"min_dnsmos": 2.5}, Reason.POOR_SOUND),
        ("speaker_share", 0.55, {"min_speaker_share": 0.8}, Reason.MIXED_SPEAKERS),
        ("speaker_overlap_share", 0.25, {"max_overlap_share": 0.1}, Reason.OVERLAPPED),
    ],
)
def test_thresholds_of_sound_and_speakers_are_off_until_set(
    column: str, value: float, threshold: dict[str, float], reason: Reason
) -> None:
    made = utterance(np.ones(16000))
    made.columns[column] = value
    assert judge(made, FilterOptions(), "gmm") is None
    verdict = judge(made, FilterOptions.model_validate(threshold), "gmm")
    assert verdict is not None
    assert verdict[0] is reason
    assert f"{column} {value:.2f}" in verdict[1]
    del made.columns[column]
    assert judge(made, FilterOptions.model_validate(threshold), "gmm") is None


def test_a_voice_has_a_pitch_and_a_rate_and_silence_has_neither(ljspeech: list[Clip]) -> None:
    clip = ljspeech[0]
    made = Utterance("a", -1, 0, len(clip.samples), clip.samples, clip.rate_hz, text=clip.text)
    made.words = [Word(w["w"], w["s"], w["e"], 1.0, "given") for w in clip.line["words"]]
    found = Measure(MeasureOptions())(Block(0, clip.rate_hz, utterances=[made])).utterances[0].columns
    low, middle, high = (float(found[f"quality_pitch{name}_hz"]) for name in ("_low", "", "_high"))
    assert 120 < low < middle < high < 400
    assert 0.2 < float(found["quality_voiced_share"]) < 0.9
    spoken_s = made.words[-1].end_s - made.words[0].start_s
    assert found["quality_words_per_s"] == pytest.approx(len(made.words) / spoken_s)
    silence = Utterance("a", -1, 0, 16000, np.zeros(16000, np.float32), 16000)
    columns = Measure(MeasureOptions())(Block(0, 16000, utterances=[silence])).utterances[0].columns
    assert columns["quality_voiced_share"] == 0
    assert not {"quality_pitch_hz", "quality_words_per_s"} & set(columns)
    off = Utterance("a", -1, 0, 16000, np.zeros(16000, np.float32), 16000)
    columns = Measure(MeasureOptions(pitch=False))(Block(0, 16000, utterances=[off])).utterances[0].columns
    assert "quality_voiced_share" not in columns


def test_dnsmos_comes_where_it_is_asked_for(ljspeech: list[Clip]) -> None:
    clip = ljspeech[1]
    stage = Measure(MeasureOptions(dnsmos=True))
    stage.setup()
    made = Utterance("a", -1, 0, len(clip.samples), clip.samples, clip.rate_hz)
    columns = stage(Block(0, clip.rate_hz, utterances=[made])).utterances[0].columns
    names = {f"quality_dnsmos{name}" for name in ("", "_speech", "_background", "_p808")}
    assert all(1 <= float(columns[name]) <= 5 for name in names)
    assert set(stage.weights()) == {"dnsmos"}
    assert Measure(MeasureOptions()).weights() == {}


def test_off_is_off_and_no_word_is_no_text() -> None:
    made = utterance(np.ones(16000))
    made.columns["asr_avg_logprob"] = -9.0
    assert judge(made, FilterOptions(min_avg_logprob=None), "gmm") is None
    made.words = []
    block = Block(0, 16000, utterances=[made], samples_in=16000)
    assert not Filter(FilterOptions(), "gmm")(block).utterances
    assert block.rejections[0].reason is Reason.NO_TEXT
    block.check_conserved()


def test_the_words_of_another_clip_are_unaligned(speech: list[Clip]) -> None:
    """Real speech with its own text stays, with its neighbour's it goes: the score of the default aligner tells them apart."""
    from transforms.align.stage import Align, AlignOptions

    stage = Align(AlignOptions())
    stage.setup()
    texts = [clip.text.lower() for clip in speech]
    for said, stays in ((texts, True), ([*texts[1:], texts[0]], False)):
        block = Block(0, 16000, samples_in=sum(len(clip.samples) for clip in speech))
        block.utterances = [
            Utterance(str(i), -1, 0, len(clip.samples), clip.samples, 16000, text=text, language="en")
            for i, (clip, text) in enumerate(zip(speech, said, strict=True))
        ]
        done = Filter(FilterOptions(), "joint")(stage(block))
        assert len(done.utterances) == (len(speech) if stays else 0)
        done.check_conserved()
        assert {r.reason for r in done.rejections} == (set() if stays else {Reason.UNALIGNED})
