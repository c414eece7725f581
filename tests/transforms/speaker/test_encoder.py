"""The speaker encoder against Resemblyzer's own output, and against who is speaking."""

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import SHARED, read_clips
from transforms.speaker.encoder import SpeakerEncoder, centre, louder, starts
from transforms.weights import locate

# VoiceEncoder.embed_utterance(wav, rate=2.5) of Resemblyzer 0.1.4 with librosa 0.11: clip, samples read, windows, and the six
# largest of the 256 numbers by index.
PACKAGE = [
    ("trn03", None, 73, {104: 0.206792, 9: 0.201865, 218: 0.201228, 55: 0.193979, 127: 0.18356, 130: 0.173608}),
    ("dev00", 20000, 1, {13: 0.298198, 9: 0.22519, 62: 0.223629, 160: 0.206209, 78: 0.205879, 226: 0.201909}),
]


@pytest.fixture(scope="module")
def encoder() -> SpeakerEncoder:
    return SpeakerEncoder(locate("resemblyzer").path)


@pytest.mark.parametrize(("clip", "n", "windows", "largest"), PACKAGE)
def test_embeddings_are_the_packages(
    encoder: SpeakerEncoder, shared: object, clip: str, n: int | None, windows: int, largest: dict[int, float]
) -> None:
    samples = soundfile.read(SHARED / "data" / "ami" / f"{clip}.flac", dtype="float32")[0][:n]
    (found,) = encoder.windows([samples], 40)
    assert found.shape == (windows, 256)
    whole = centre(found)
    assert set(np.argsort(-whole)[:6]) == set(largest)
    np.testing.assert_allclose(whole[list(largest)], list(largest.values()), atol=1e-5)


def test_the_batch_does_not_matter(encoder: SpeakerEncoder) -> None:
    random = np.random.default_rng(0)
    batch = [random.normal(0, 0.1, n).astype(np.float32) for n in (100, 25600, 60000, 31000)]
    for together, samples in zip(encoder.windows(batch, 40), batch, strict=True):
        np.testing.assert_allclose(together, encoder.windows([samples], 40)[0], atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_a_voice_is_nearer_to_itself_than_to_another(encoder: SpeakerEncoder, shared: object) -> None:
    clips = read_clips("librispeech-test-other.jsonl", 60)[::2]
    found = np.stack([centre(one) for one in encoder.windows([louder(clip.samples[:64000]) for clip in clips], 40)])
    nearest = np.argsort(-(found @ found.T), axis=1)[:, 1]
    speakers = [clip.line["speaker"] for clip in clips]
    assert len(set(speakers)) == 10
    assert np.mean([speakers[i] == speakers[j] for i, j in enumerate(nearest)]) > 0.9


@given(st.integers(0, 500_000), st.integers(1, 160))
def test_windows_begin_every_hop_and_only_the_first_is_much_beyond_the_end(n: int, hop: int) -> None:
    found = starts(n, hop)
    assert found == list(range(0, len(found) * hop, hop))
    assert len(found) == 1 or n - found[-1] * 160 >= 0.75 * 160 * 160
    # Less than what the next window would need is left unread.
    assert n - (found[-1] + hop) * 160 <= 160 * 160 + hop * 160


def test_only_what_is_quiet_is_made_louder() -> None:
    tone = np.sin(np.arange(16000) / 10).astype(np.float32)
    assert louder(tone) is tone
    quiet = louder(1e-3 * tone)
    assert 20 * np.log10(np.sqrt(np.square(quiet).mean())) == pytest.approx(-30, abs=0.01)
    assert not louder(np.zeros(10, np.float32)).any()
    assert len(louder(np.zeros(0, np.float32))) == 0
