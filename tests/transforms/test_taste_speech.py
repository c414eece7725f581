"""TASTE's decoder: runs and words of units, one step at a time as all at once, and real speech said again."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import UserError
from tests.conftest import Clip
from transforms.taste.decoder import MAX_RUN, Fused, Phones, SpeechDecoder, Spoken
from transforms.taste.examples import shorter_runs, word_ends
from transforms.taste.fit_sound import frame_words
from transforms.taste.phones import SYMBOLS, PhoneReader
from transforms.taste.sound import SoundNetwork, load_sound, mel_frames, save_sound
from transforms.taste.speech import Drawing, Speech, write_units

RUNS = st.lists(st.integers(1, 70), min_size=1, max_size=40)


@given(RUNS)
def test_shorter_runs_are_the_same_frames(runs: list[int]) -> None:
    units = np.arange(len(runs))
    shorter, lengths = shorter_runs(units, np.array(runs))
    assert lengths.min() >= 1
    assert lengths.max() <= MAX_RUN
    assert np.repeat(shorter, lengths).tolist() == np.repeat(units, runs).tolist()


@given(RUNS, st.lists(st.floats(0, 30), min_size=1, max_size=40))
def test_every_word_has_units_and_every_unit_a_word(runs: list[int], starts: list[float]) -> None:
    starts = sorted(starts)
    if len(starts) > len(runs):
        with pytest.raises(ValueError, match="units for"):
            word_ends(np.array(runs), starts)
        return
    ends = word_ends(np.array(runs), starts)
    assert (np.diff(ends, prepend=0) > 0).all()
    assert ends[-1] == len(runs)


def test_a_word_lasts_until_the_next_begins() -> None:
    # Frames of 20 ms in runs of 1, 4, 5: the second word begins at 0.1 s, between the second run and the third.
    assert word_ends(np.array([1, 4, 5]), [0.0, 0.1]).tolist() == [2, 3]
    assert frame_words([0.0, 0.1], 10).tolist() == [0] * 5 + [1] * 5


def small_decoder() -> tuple[SpeechDecoder, Fused]:
    """A decoder, and what it reads of two words with codes: one of one phone, one of two."""
    torch.manual_seed(0)
    decoder = SpeechDecoder(32, 20, dim=64, layers=2, speaker_dim=8).eval()
    phones = Phones(torch.tensor([[3, 9, 4]]), torch.ones(1, 3, dtype=torch.bool), torch.tensor([0, 1, 1]))
    with torch.no_grad():
        return decoder, decoder.fuse(torch.randn(2, 32), torch.randn(2, 32), phones, torch.randn(1, 8))


def test_one_unit_at_a_time_predicts_what_all_at_once_does() -> None:
    decoder, fused = small_decoder()
    spoken = Spoken(*(torch.tensor([x]) for x in ([3, 7, 7], [2, 16, 1], [0, 0, 1], [0, 2, 0], [18, 16, 1])))
    with torch.no_grad():
        together = decoder(fused, spoken)
        cache: list = []
        decoder.start(fused, cache)
        before = decoder.first()
        for at in range(3):
            unit, run, word, elapsed, left = (int(x[0, at]) for x in spoken)
            state = decoder.step(before, at, fused.words[word], elapsed, left, cache)
            torch.testing.assert_close(decoder.unit_out(state), together.units[0, at], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(decoder.run_logits(state, unit), together.runs[0, at], atol=1e-4, rtol=1e-4)
            before = decoder.said(unit, run)


@given(st.lists(st.integers(1, 120), min_size=2, max_size=2), st.integers(0, 3))
def test_each_word_lasts_as_long_as_was_told(lengths: list[int], seed: int) -> None:
    decoder, fused = small_decoder()
    told = fused._replace(log_frames=torch.tensor(lengths, dtype=torch.float32).log())
    said = write_units(decoder, told, Drawing(seed=seed))
    assert np.bincount(said.words, weights=said.runs).tolist() == lengths
    assert said.runs.min() >= 1
    assert said.runs.max() <= MAX_RUN
    shorter = write_units(decoder, told, Drawing(seed=seed, max_word_s=0.4))
    assert np.bincount(shorter.words, weights=shorter.runs).tolist() == [min(n, 20) for n in lengths]


def test_words_are_read_as_their_phones_and_the_stop_that_they_end_with() -> None:
    read = PhoneReader("en")(["Hello,", "3", "’", "cats.”"])
    said = [" ".join(SYMBOLS[i] for i in read.ids[read.word_ids == word]) for word in range(4)]
    assert said == ["HH AH L OW ,", "TH R IY", "-", "K AE T S ."]
    assert read.word_ids.tolist() == sorted(read.word_ids.tolist())
    unknown = PhoneReader("en")(["blixtrope"])
    assert len(unknown.ids) > 5
    assert "-" not in [SYMBOLS[i] for i in unknown.ids]


@pytest.fixture(scope="module")
def embedded(shared) -> Speech:
    return Speech.load("antiphon-taste", "whisper-tiny")


def test_a_sentence_is_said_again_every_word_of_it(embedded: Speech, speech: list[Clip]) -> None:
    clip = speech[0]
    text = " ".join(clip.text.split()[:6])
    codes = embedded.model.codes(clip.samples, clip.text, "en")[:6]
    voice = embedded.decoder.voice.numpy()
    said = embedded.say(text, codes, voice)
    assert np.unique(said.words).tolist() == list(range(len(codes)))
    assert (np.diff(said.words) >= 0).all()
    assert said.word_durations_s(6).sum() == pytest.approx(len(said.frames) / 50)
    again = embedded.say(text, codes, voice)
    assert np.array_equal(again.units, said.units)
    assert not np.array_equal(embedded.say(text, None, voice).units, said.units)
    with pytest.raises(ValueError, match="codes for 1 words"):
        embedded.say(text, codes[:1], voice)


def test_the_speed_of_a_sentence_follows_its_codes(embedded: Speech) -> None:
    from schemas import Utterance
    from transforms.espeak import speak
    from transforms.resample import resample

    text = "We met in the garden and talked about the old house near the river"
    read = [speak(text + ".", words_per_minute=wpm) for wpm in (110, 230)]
    voice = embedded.voice(Utterance("tts", -1, 0, len(read[0][0]), *read[0]))
    seconds = []
    for samples, rate_hz in read:
        codes = embedded.model.codes(resample(samples, rate_hz, 16000), text, "en")
        seconds.append(np.mean([len(embedded.say(text, codes, voice, Drawing(seed=s)).frames) / 50 for s in range(3)]))
    assert seconds[0] > 1.15 * seconds[1]


def test_units_become_sound_of_their_length(embedded: Speech, speech: list[Clip]) -> None:
    clip = speech[0]
    text = " ".join(clip.text.split()[:3])
    voice = embedded.decoder.voice.numpy()
    said = embedded.say(text, None, voice)
    samples = embedded.samples(said, None, voice)
    assert len(samples) == 256 * mel_frames(len(said.frames))
    assert 0.01 < np.abs(samples).max() <= 1


def test_sound_of_another_tokenizer_is_refused(tmp_path) -> None:
    network = SoundNetwork(20, latent_dim=8, speaker_dim=4, channels=16, unit_blocks=1, mel_blocks=1)
    path = tmp_path / "sound.safetensors"
    save_sound(path, network, {"tokenizer_sha256": "a" * 64})
    assert load_sound(path, "a" * 64).shape == network.shape
    with pytest.raises(UserError, match="fitted on the codes of a tokenizer"):
        load_sound(path, "b" * 64)
    path.write_bytes(b"no")
    with pytest.raises(UserError, match="not a file that `antiphon fit sound` wrote"):
        load_sound(path, "a" * 64)
