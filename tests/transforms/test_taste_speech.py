"""TASTE's decoder: lengths that add up, a batch as one by one, and real speech said again."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from schemas.errors import UserError
from tests.conftest import Clip
from transforms.taste.decoder import Fused, Phones, SpeechDecoder
from transforms.taste.fit_sound import frame_words
from transforms.taste.phones import SYMBOLS, PhoneReader
from transforms.taste.sound import SoundNetwork, load_sound, mel_frames, save_sound
from transforms.taste.speech import Speech

SPACE = SYMBOLS.index(" ")


def test_a_word_lasts_until_the_next_begins() -> None:
    assert frame_words([0.06, 0.1], 10).tolist() == [0] * 5 + [1] * 5
    assert frame_words([0.5], 3).tolist() == [0] * 3


@pytest.fixture(scope="module")
def decoder() -> SpeechDecoder:
    torch.manual_seed(0)
    return SpeechDecoder(32, 20, dim=64, blocks=2, speaker_dim=8).eval()


def read(words: list[list[int]], first_word: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Phones of each word -> ids and words with boundaries, as the reader gives them."""
    ids = [SPACE] + [i for word in words for i in (*word, SPACE)]
    of_word = [0] + [w for w, word in enumerate(words) for _ in range(len(word) + 1)]
    return torch.tensor(ids), torch.tensor(of_word) + first_word


def fuse(decoder: SpeechDecoder, utterances: list[list[list[int]]], seed: int = 0) -> Fused:
    """What is read of utterances of words of phones, whose text, codes and voices follow from `seed`, one word after the other."""
    first = np.cumsum([0] + [len(words) for words in utterances])
    made = [read(words, int(at)) for words, at in zip(utterances, first[:-1], strict=True)]
    ids = pad_sequence([i for i, _ in made], batch_first=True)
    valid = pad_sequence([torch.ones_like(i, dtype=torch.bool) for i, _ in made], batch_first=True)
    drawn = torch.Generator().manual_seed(seed)
    text, codes = torch.randn(2, int(first[-1]), 32, generator=drawn)
    voices = torch.randn(len(utterances), 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return decoder.fuse(text, codes, Phones(ids, valid, torch.cat([w for _, w in made])), voices)


WORDS = st.lists(st.lists(st.integers(1, 39), min_size=1, max_size=7), min_size=1, max_size=6)


@settings(deadline=None)
@given(WORDS, st.integers(0, 9))
def test_phones_share_what_their_word_lasts(decoder: SpeechDecoder, words: list[list[int]], seed: int) -> None:
    fused = fuse(decoder, [words], seed)
    wanted = torch.randint(1, 150, (len(words),), generator=torch.Generator().manual_seed(seed))
    fused = fused._replace(log_frames=wanted.float().log())
    torch.testing.assert_close(torch.zeros(len(words)).index_add(0, fused.words, fused.shares), torch.ones(len(words)))
    frames = decoder.lengths(fused, 100)
    assert frames.min() >= 0
    said = ~fused.boundary
    assert torch.equal(
        torch.zeros(len(words), dtype=torch.long).index_add(0, fused.words[said], frames[said]), wanted.clamp(max=100)
    )


def test_a_batch_is_what_each_would_be_alone(decoder: SpeechDecoder) -> None:
    utterances = [[[3, 4], [5]], [[6, 7, 8]]]
    together = fuse(decoder, utterances)
    frames = torch.tensor([2, 5, 1, 0, 9, 4, 1, 3, 3, 30, 0])
    with torch.no_grad():
        both = decoder(together, frames)
    assert both.shape == (2, 37, 20)
    alone = Fused(
        together.states[:6], together.counts[:1], together.words[:6], together.boundary[:6], together.log_frames[:2],
        together.shares[:6], together.log_pauses[:6],
    )  # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(decoder(alone, frames[:6])[0], both[0, :21], atol=1e-5, rtol=1e-5)


def test_padding_changes_no_phone(decoder: SpeechDecoder) -> None:
    words, longer = [[3, 4], [5]], [[6, 7, 8], [9, 9, 9, 9], [1]]
    alone, together = fuse(decoder, [words]), fuse(decoder, [words, longer])
    assert together.counts.tolist() == [6, 12]
    assert together.words.tolist()[:6] == alone.words.tolist()
    text = torch.randn(5, 32)
    ids = pad_sequence([read(words)[0], read(longer)[0]], batch_first=True)
    with torch.no_grad():
        one = decoder.fuse(text[:2], None, Phones(ids[:1, :6], ids[:1, :6] >= 0, read(words)[1]), torch.zeros(1, 8))
        valid = torch.arange(12) < torch.tensor([[6], [12]])
        of_word = torch.cat([read(words)[1], read(longer, 2)[1]])
        two = decoder.fuse(text, None, Phones(ids, valid, of_word), torch.zeros(2, 8))
    for name in ("states", "shares", "log_pauses"):
        torch.testing.assert_close(getattr(two, name)[:6], getattr(one, name), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(two.log_frames[:2], one.log_frames, atol=1e-5, rtol=1e-4)


def test_words_are_read_as_their_phones_and_the_boundary_that_they_end_with() -> None:
    read = PhoneReader("en")(["Hello,", "3", "’", "cats.”"])
    said = [" ".join(SYMBOLS[i] for i in read.ids[read.word_ids == word]) for word in range(4)]
    assert said == ["  HH AH L OW ,", "TH R IY  ", "-  ", "K AE T S ."]
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
    assert said.word_durations_s(6).sum() == pytest.approx(len(said.units) / 50)
    assert np.array_equal(embedded.word_lengths_s(text, codes, voice), said.word_durations_s(6))
    assert (embedded.word_lengths_s(text, codes, voice, pauses=False) <= said.word_durations_s(6)).all()
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
        seconds.append(len(embedded.say(text, codes, voice).units) / 50)
    assert seconds[0] > 1.15 * seconds[1]


def test_what_is_said_of_a_reader_who_is_in_no_data_is_understood(embedded: Speech, speech: list[Clip]) -> None:
    from jiwer import wer

    from schemas import Utterance
    from transforms.normalize import normalize
    from transforms.resample import resample
    from transforms.whisper_model import load_whisper

    clip = min(speech, key=lambda clip: len(clip.samples))
    voice = embedded.voice(Utterance("clip", -1, 0, len(clip.samples), clip.samples, clip.rate_hz))
    codes = embedded.model.codes(clip.samples, clip.text, "en")
    for some in (codes, None):
        said = embedded.samples(embedded.say(clip.text, some, voice), some, voice)
        heard = load_whisper("whisper-tiny").transcribe(resample(said, embedded.rate_hz, 16000), language="en")
        assert wer(normalize(clip.text, "en"), normalize(heard["text"], "en")) < 0.5


def test_units_become_sound_of_their_length(embedded: Speech, speech: list[Clip]) -> None:
    clip = speech[0]
    text = " ".join(clip.text.split()[:3])
    voice = embedded.decoder.voice.numpy()
    said = embedded.say(text, None, voice)
    samples = embedded.samples(said, None, voice)
    assert len(samples) == 256 * mel_frames(len(said.units))
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
