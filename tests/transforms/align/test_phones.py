"""The phone classifier: other languages, long recordings, and its file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Clip
from transforms.align.head import N_CLASSES, Head, WrongHead, windows
from transforms.align.joint import JointAligner
from transforms.align.phones import PhoneAligner
from transforms.align.pieces import cuts
from transforms.align.placing import Placed, Units
from transforms.align.stage import Aligner, AlignOptions
from transforms.espeak import speak
from transforms.resample import resample
from transforms.weights import MissingWeights, locate


@pytest.fixture(scope="module")
def phones(joint: JointAligner) -> PhoneAligner:
    return joint._phones


@pytest.fixture(scope="module")
def joint(shared: Path) -> JointAligner:
    return JointAligner(AlignOptions())


def said_apart(words: list[str], voice: str) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Each word spoken alone by espeak-ng, 0.25 s of faint noise between: 16 kHz samples and the (start, end) of each."""
    random = np.random.default_rng(0)
    parts = [random.normal(0, 1e-4, 4000).astype(np.float32)]
    times, at = [], 4000
    for word in words:
        samples, rate_hz = speak(word, voice)
        samples = resample(samples, rate_hz, 16000)
        loud = np.flatnonzero(np.abs(samples) > 0.02)
        samples = samples[loud[0] : loud[-1] + 1]
        times.append((at / 16000, (at + len(samples)) / 16000))
        parts += [samples, random.normal(0, 1e-4, 4000).astype(np.float32)]
        at += len(samples) + 4000
    return np.concatenate(parts), times


@pytest.mark.parametrize(
    ("language", "voice", "text"),
    [
        ("de", "de", "Guten Morgen, wunderschöne Straßenbahn"),
        ("es", "es", "buenos días señorita mañana"),
        ("ru", "ru", "доброе утро товарищ"),
        ("zh", "cmn", "早上好 我们 图书馆"),
        ("hi", "hi", "नमस्ते दुनिया हिन्दी"),
        ("he", "he", "שלום עולם ירושלים"),
        ("ja", "ja", "おはよう カタカナ さようなら"),
    ],
)
def test_words_of_other_languages_lie_where_they_are_said(
    phones: PhoneAligner, language: str, voice: str, text: str
) -> None:
    words = text.split()
    samples, times = said_apart(words, voice)
    found = phones.align(samples, words, language)
    assert [w.text for w in found] == words
    assert {w.how for w in found} == {"ctc"}
    errors = [abs(e) for w, (a, b) in zip(found, times, strict=True) for e in (w.start_s - a, w.end_s - b)]
    assert np.median(errors) < 0.06
    assert max(errors) < 0.3


@pytest.mark.parametrize("backend", ["phones", "joint"])
def test_a_long_recording_is_placed_as_its_clips_are(
    phones: PhoneAligner, joint: JointAligner, ljspeech: list[Clip], backend: str
) -> None:
    aligner: Aligner = {"phones": phones, "joint": joint}[backend]
    heard = [resample(clip.samples, clip.rate_hz, 16000) for clip in ljspeech]
    alone = [aligner.align(samples, clip.text.split(), "en") for samples, clip in zip(heard, ljspeech, strict=True)]
    order = [*range(6), *range(6), *range(6)]
    gap = np.zeros(8000, np.float32)
    samples = np.concatenate([part for i in order for part in (gap, heard[i])])
    assert len(samples) > 90 * 16000
    words = aligner.align(samples, " ".join(ljspeech[i].text for i in order).split(), "en")
    at, begun, errors = 0, 0.0, []
    for i in order:
        begun += 0.5
        for single in alone[i]:
            errors += [abs(words[at].start_s - begun - single.start_s), abs(words[at].end_s - begun - single.end_s)]
            at += 1
        begun += len(heard[i]) / 16000
    assert at == len(words)
    assert np.median(errors) < 0.01
    assert max(errors) < 0.2


def test_windows_change_little(phones: PhoneAligner, ljspeech: list[Clip]) -> None:
    samples = np.concatenate([resample(clip.samples, clip.rate_hz, 16000) for clip in ljspeech])[: 28 * 16000]
    head = phones._head
    with torch.inference_mode():
        mel, encoded = head.ears(samples)
        whole = head.network(mel[None], encoded[None])[0].argmax(-1).numpy()
    pieces = head.log_posteriors(samples)
    assert pieces.shape == (2 * (len(samples) // 320), N_CLASSES)
    assert np.mean(pieces.argmax(axis=1) == whole) > 0.9


@given(st.integers(0, 20_000))
def test_windows_tile_the_frames(n_frames: int) -> None:
    at = 0
    for start, end, low, high in windows(n_frames):
        assert start == at
        assert 0 <= low <= start < end <= high <= n_frames
        assert high - low <= 1500  # Whisper's 30 s
        at = end
    assert at == n_frames


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 900)), min_size=1, max_size=200))
def test_cuts_tile_tokens_and_frames(lengths: list[tuple[int, int]]) -> None:
    at, rough = 0, []
    for said, pause in lengths:
        rough.append(Placed(at, at + said, 0.5))
        at += said + pause
    token = frame = 0
    for first, last, start, end in cuts(rough, at):
        assert (first, start) == (token, frame)
        assert first < last
        assert start <= rough[first].start
        assert rough[last - 1].end <= end
        token, frame = last, end
    assert (token, frame) == (len(rough), at)


def test_units_are_three_a_phone_and_one_for_a_wildcard() -> None:
    units = Units.spell([("AA", "ZH"), (), ("AE",)])
    assert units.columns.tolist() == [1, 2, 3, 115, 116, 117, 118, 4, 5, 6]
    assert units.owners.tolist() == [0] * 6 + [1] + [2] * 3
    assert np.flatnonzero(units.first).tolist() == [0, 6, 7]


def test_the_file_says_what_it_is_and_saves_to_the_same_bytes(phones: PhoneAligner, tmp_path: Path) -> None:
    path = locate("antiphon-phones").path
    assert path.stat().st_size < 10e6
    about = phones._head.about
    assert "CC BY 4.0" in about["data"]
    assert about["heldout_phone_error_rate"] < 0.5
    for name in ("a", "b"):
        Head.load(path, "whisper-tiny").save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_wrong_file_or_encoder_is_refused(tmp_path: Path, shared: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"no weights")
    with pytest.raises(WrongHead, match=r"x\.safetensors"):
        PhoneAligner(AlignOptions(model=str(tmp_path / "x.safetensors")))
    with pytest.raises(WrongHead, match="antiphon-units"):
        PhoneAligner(AlignOptions(model="antiphon-units"))
    with pytest.raises(MissingWeights):
        PhoneAligner(AlignOptions(encoder="whisper-nowhere"))
