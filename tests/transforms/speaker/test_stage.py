"""The speaker stage on two real readers."""

import numpy as np
import pytest

from schemas import Block, Utterance
from tests.conftest import Clip, read_clips
from transforms.speaker.stage import Speaker, SpeakerOptions


@pytest.fixture(scope="module")
def stage() -> Speaker:
    made = Speaker(SpeakerOptions())
    made.setup()
    return made


@pytest.fixture(scope="module")
def readers(shared: object) -> tuple[list[Clip], list[Clip]]:
    """Two clips each of two readers."""
    clips = read_clips("librispeech-test-other.jsonl", 8)
    assert clips[0].line["speaker"] != clips[6].line["speaker"]
    return clips[:2], clips[6:8]


def talk(clips: list[np.ndarray], source: str = "talk.wav", at: int = 0) -> Block:
    """A Block of one recording, an utterance for each of `clips`, from sample `at` on."""
    block = Block(0, 16000)
    for samples in clips:
        block.utterances.append(Utterance(source, -1, at, at + len(samples), samples, 16000))
        at += len(samples) + 8000
    block.samples_in = sum(len(samples) for samples in clips)
    return block


def test_each_utterance_has_its_readers_name(stage: Speaker, readers: tuple[list[Clip], list[Clip]]) -> None:
    (a, b), (c, d) = ([clip.samples[:80000] for clip in two] for two in readers)
    block = stage(talk([a, c, b, d]))
    assert [u.columns["speaker"] for u in block.utterances] == [f"talk.wav#0.00/{i}" for i in (0, 1, 0, 1)]
    for utterance in block.utterances:
        assert utterance.columns["speaker_share"] == 1.0
        assert utterance.speaker_embedding is not None
        assert np.linalg.norm(utterance.speaker_embedding) == pytest.approx(1, abs=1e-5)
    block.check_conserved()


def test_an_utterance_of_both_says_so(stage: Speaker, readers: tuple[list[Clip], list[Clip]]) -> None:
    (a, _), (c, _) = ([clip.samples for clip in two] for two in readers)
    both = np.concatenate([a[:96000], c[:48000]])
    block = stage(talk([a[96000:176000], c[64000:144000], both]))
    mixed = block.utterances[2]
    assert mixed.columns["speaker"] == block.utterances[0].columns["speaker"]
    assert 0.5 < float(mixed.columns["speaker_share"]) < 0.85


def test_where_two_speak_at_once_is_marked(stage: Speaker, readers: tuple[list[Clip], list[Clip]]) -> None:
    """One reader all along, another one from 3 s to 6 s."""
    alone = readers[0][0].samples[:144000]
    both = alone.copy()
    both[48000:96000] += readers[1][0].samples[32000:80000]
    clean, mixed = stage(talk([alone, both])).utterances
    inside = sum(max(0.0, min(end_s, 6.0) - max(start_s, 3.0)) for start_s, end_s in mixed.overlaps)
    outside = sum(end_s - start_s for start_s, end_s in mixed.overlaps) - inside
    assert inside > 1.0
    assert outside < 0.5
    assert mixed.columns["speaker_overlap_share"] == pytest.approx((inside + outside) / 9)
    assert float(clean.columns["speaker_overlap_share"]) < 0.05
    deaf = Speaker(SpeakerOptions(overlap=None))
    deaf.setup()
    assert "speaker_overlap_share" not in deaf(talk([both])).utterances[0].columns
    assert set(stage.weights()) - set(deaf.weights()) == {"antiphon-overlap", "whisper-tiny"}


def test_a_given_name_is_kept(stage: Speaker, readers: tuple[list[Clip], list[Clip]]) -> None:
    block = talk([readers[0][0].samples[:48000], readers[1][0].samples[:48000]])
    block.utterances[0].columns["speaker"] = "Ann"
    assert [u.columns["speaker"] for u in stage(block).utterances] == ["Ann", "talk.wav#0.00/1"]


def test_two_blocks_and_two_recordings_share_no_name(stage: Speaker, readers: tuple[list[Clip], list[Clip]]) -> None:
    samples = readers[0][0].samples[:48000]
    blocks = [talk([samples]), talk([samples], at=16000 * 300), talk([samples], "other.wav")]
    found = [stage(block).utterances[0] for block in blocks]
    assert len({u.columns["speaker"] for u in found}) == 3
    # The same audio has the same embedding wherever it is, and by that it can be joined.
    for utterance in found[1:]:
        np.testing.assert_array_equal(utterance.speaker_embedding, found[0].speaker_embedding)


def test_it_comes_out_the_same_twice_and_in_silence(stage: Speaker) -> None:
    noise = np.random.default_rng(0).normal(0, 1e-3, 8000).astype(np.float32)
    blocks = [stage(talk([noise, np.zeros(300, np.float32)])) for _ in range(2)]
    for first, second in zip(*(block.utterances for block in blocks), strict=True):
        assert first.columns == second.columns
        np.testing.assert_array_equal(first.speaker_embedding, second.speaker_embedding)
    assert not stage(Block(0, 16000)).utterances
