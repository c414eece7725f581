"""Decoding: every container, any rate and channels, and exact reasons for what cannot be decoded."""

import tempfile
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import Block, Piece, Reason
from tests.conftest import Clip
from tests.media import encode
from transforms.audio import decode, probe
from transforms.decode import Decode, DecodeOptions

# Suffix, codec, lossy: one of each container that the sources look for.
CONTAINERS = [
    ("wav", "pcm_s16le", False),
    ("flac", "flac", False),
    ("mp3", "mp3", True),
    ("ogg", "libvorbis", True),
    ("opus", "libopus", True),
    ("m4a", "aac", True),
    ("webm", "libopus", True),
    ("mp4", "aac", True),
]


def decoded(path: Path, declared_s: float | None = None, **options: object) -> Block:
    block = Block(0, 16000)
    if declared_s is None:
        try:
            declared_s = probe(str(path)).duration_s or 0.0
        except (OSError, ValueError, av.error.FFmpegError):
            declared_s = 0.0
    block.pieces = [Piece(path.name, str(path), "f", declared_s=declared_s)]
    return Decode(DecodeOptions(**options))(block)  # type: ignore[arg-type]


def only_reason(block: Block) -> Reason:
    (rejection,) = block.rejections
    assert rejection.detail
    block.check_conserved()
    return rejection.reason


@pytest.mark.parametrize(("suffix", "codec", "lossy"), CONTAINERS)
def test_every_container_gives_the_speech_that_went_in(
    speech: list[Clip], tmp_path: Path, suffix: str, codec: str, lossy: bool
) -> None:
    clip = speech[0].samples[: 16000 * 4]
    rate_hz = 48000 if codec == "libopus" else 16000
    source = np.repeat(clip, 3) if rate_hz == 48000 else clip
    path = tmp_path / f"a.{suffix}"
    if codec == "libvorbis":  # PyAV reads it and does not write it
        soundfile.write(path, source, rate_hz, format="OGG", subtype="VORBIS")
    else:
        encode(path, source[None], rate_hz, codec, video=suffix == "mp4")
    block = decoded(path)
    assert not block.rejections
    found = block.pieces[0].samples[-1]
    assert found.dtype == np.float32
    assert len(found) == block.samples_in
    assert abs(len(found) - len(clip)) < 0.15 * 16000  # encoders pad
    if not lossy:
        assert np.abs(found - clip).max() <= 1 / 32768
    else:
        delays = range(-2400, 2400, 4)
        window = clip[8000:24000]
        best = max(float(np.corrcoef(window, found[8000 + d : 24000 + d])[0, 1]) for d in delays)
        assert best > 0.8


@pytest.mark.parametrize("rate_hz", [8000, 11025, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "PCM_U8"])
def test_any_rate_and_sample_format(tmp_path: Path, rate_hz: int, subtype: str) -> None:
    t = np.arange(rate_hz) / rate_hz
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * t), rate_hz, subtype=subtype)
    found = decoded(tmp_path / "a.wav").pieces[0].samples[-1]
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert len(found) == 16000
    assert np.abs(found - expected)[200:-200].max() < 0.02


def test_channels_are_mixed_split_or_the_first(tmp_path: Path) -> None:
    left, right = np.full(16000, 0.5), np.full(16000, -0.1)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 16000, subtype="FLOAT")
    mixed = decoded(tmp_path / "a.wav")
    assert mixed.pieces[0].samples[-1] == pytest.approx(0.2)
    split = decoded(tmp_path / "a.wav", channels="split")
    assert split.samples_in == 32000
    assert split.pieces[0].samples[1] == pytest.approx(-0.1)
    assert set(decoded(tmp_path / "a.wav", channels="first").pieces[0].samples) == {0}


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_a_stretch_is_exact_to_the_sample(speech: list[Clip], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.tile(speech[0].samples, 3), 16000)
    whole = decoded(path).pieces[0].samples[-1]
    block = Block(0, 16000, pieces=[Piece("a", str(path), "f", 16000, 100_003, 133_333)])
    Decode(DecodeOptions())(block)
    assert np.array_equal(block.pieces[0].samples[-1], whole[100_003:133_333])
    assert block.pieces[0].offset == 100_003


def test_broken_files_have_exact_reasons(speech: list[Clip], tmp_path: Path) -> None:
    wav = tmp_path / "whole.wav"
    soundfile.write(wav, speech[0].samples, 16000)
    whole = wav.read_bytes()
    zoo = {
        "empty.wav": (b"", Reason.UNREADABLE),
        "page.mp3": (b"<html><body>404</body></html>" * 50, Reason.UNREADABLE),
        "random.flac": (np.random.default_rng(0).bytes(5000), Reason.UNREADABLE),
        "header-only.wav": (whole[:44], Reason.NO_AUDIO),
    }
    for name, (data, reason) in zoo.items():
        (tmp_path / name).write_bytes(data)
        assert only_reason(decoded(tmp_path / name, declared_s=0.0)) is reason, name
    assert only_reason(decoded(tmp_path / "absent.wav", declared_s=2.5)) is Reason.MISSING
    assert decoded(tmp_path / "absent.wav", declared_s=2.5).samples_in == 40000
    encode(tmp_path / "silent-film.mp4", np.zeros((1, 0), np.float32), 16000, "", video=True)
    assert only_reason(decoded(tmp_path / "silent-film.mp4", declared_s=0.0)) is Reason.NO_AUDIO
    bad = speech[0].samples[:16000].copy()
    bad[5] = np.nan
    soundfile.write(tmp_path / "nan.wav", bad, 16000, subtype="FLOAT")
    assert only_reason(decoded(tmp_path / "nan.wav")) is Reason.NOT_FINITE


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_file_that_breaks_off_keeps_what_is_there_and_counts_what_is_not(
    speech: list[Clip], tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, speech[0].samples, 16000)
    seconds = len(speech[0].samples) / 16000
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    block = decoded(path, declared_s=seconds)
    (rejection,) = block.rejections
    assert rejection.reason is Reason.TRUNCATED
    kept = len(block.pieces[0].samples[-1])
    assert 0.2 * seconds < kept / 16000 < 0.8 * seconds
    assert block.samples_in == kept + block.samples_of(rejection)
    assert block.samples_in / 16000 == pytest.approx(seconds, abs=0.01)


def test_some_broken_packets_are_passed_over_and_many_are_corrupt(speech: list[Clip], tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, speech[0].samples, 16000)
    data = bytearray(path.read_bytes())
    for at in np.random.default_rng(1).integers(5000, len(data), 400):
        data[at] ^= 0xFF
    path.write_bytes(data)
    assert only_reason(decoded(path, max_bad_share=0.0)) in (Reason.CORRUPT, Reason.UNREADABLE)
    block = decoded(path, max_bad_share=1.0)
    assert len(block.pieces[0].samples[-1]) > 0


@given(
    container=st.sampled_from([c for c in CONTAINERS if c[1] != "libvorbis"]),
    n=st.integers(8000, 64000),
    cut=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
@settings(max_examples=25, deadline=None)
def test_fault_02_what_counts_is_what_was_decoded_and_a_stretch_is_where_it_says(
    container: tuple[str, str, bool], n: int, cut: tuple[float, float]
) -> None:
    suffix, codec, lossy = container
    rate_hz = 48000 if codec == "libopus" else 16000
    t = np.arange(n * rate_hz // 16000) / rate_hz
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{suffix}"
        encode(path, (0.3 * np.sin(2 * np.pi * (200 + 300 * t) * t)).astype(np.float32)[None], rate_hz, codec)
        whole = decoded(path)
        got = len(whole.pieces[0].samples[-1])
        assert whole.samples_in == got
        assert abs(got - n) <= (0.13 * 16000 if lossy else 0)
        full = decode(str(path)).samples[0]
        start, end = sorted(round(c * len(full)) for c in cut)
        block = Block(0, rate_hz, pieces=[Piece("a", str(path), "f", rate_hz, start, end, (end - start) / rate_hz)])
        Decode(DecodeOptions(rate_hz=rate_hz))(block)
        if end > start:
            assert np.array_equal(block.pieces[0].samples[-1], full[start:end])
        block.check_conserved()


def test_a_flipped_bit_of_a_flac_is_noticed_by_its_checksum(speech: list[Clip], tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, speech[0].samples, 16000)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert decode(str(path)).bad_packets >= 1
