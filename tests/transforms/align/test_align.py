"""Alignment of real speech against reference times, and of what does not fit."""

import json
from pathlib import Path

import numpy as np
import pytest

from schemas import Block, Utterance, Word
from tests.conftest import Clip
from transforms.align.g2p import arpabet, pronounce
from transforms.align.gmm import GmmAligner
from transforms.align.stage import Align, AlignOptions
from transforms.resample import resample


@pytest.fixture(scope="module")
def gmm() -> GmmAligner:
    return GmmAligner(AlignOptions())


def check(words: list[Word], text: str, duration_s: float) -> None:
    assert [w.text for w in words] == text.split()
    at = 0.0
    for word in words:
        assert at <= word.start_s <= word.end_s <= duration_s
        assert 0.0 <= word.score <= 1.0
        at = word.end_s


def test_boundaries_are_near_the_reference(gmm: GmmAligner, ljspeech: list[Clip]) -> None:
    errors = []
    for clip in ljspeech:
        samples = resample(clip.samples, clip.rate_hz, 16000)
        words = gmm.align(samples, clip.text.split(), "en")
        check(words, clip.text, len(samples) / 16000)
        assert all(w.how == "gmm" for w in words)
        reference = clip.line["words"]
        if len(reference) == len(words):
            for word, given in zip(words, reference, strict=True):
                errors += [abs(word.start_s - given["s"]), abs(word.end_s - given["e"])]
    assert len(errors) > 100
    assert np.median(errors) < 0.03
    assert np.percentile(errors, 90) < 0.08


@pytest.mark.parametrize("text", ["Zxqv Printing, in 1455 — the £13.60 🎤 Schnickelfritz said.", "🎤 —", "a"])
def test_every_word_is_timed_whatever_it_is(gmm: GmmAligner, ljspeech: list[Clip], text: str) -> None:
    samples = resample(ljspeech[1].samples, ljspeech[1].rate_hz, 16000)
    check(gmm.align(samples, text.split(), "en"), text, len(samples) / 16000)


def test_the_right_text_scores_far_above_a_wrong_one(gmm: GmmAligner, ljspeech: list[Clip]) -> None:
    samples = resample(ljspeech[0].samples, ljspeech[0].rate_hz, 16000)
    right, wrong = (
        np.mean([w.score for w in gmm.align(samples, clip.text.split(), "en")]) for clip in (ljspeech[0], ljspeech[2])
    )
    assert right > 0.2
    assert wrong < 0.1


def test_noise_and_text_that_cannot_fit_do_no_harm(gmm: GmmAligner) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    text = "far more words than half a second of noise can hold " * 8
    words = gmm.align(noise, text.split(), "en")
    check(words, text, 0.5)
    assert {w.how for w in words} == {"interpolated"}


def test_another_language_is_laid_out_and_says_so(gmm: GmmAligner, ljspeech: list[Clip]) -> None:
    words = gmm.align(ljspeech[0].samples, ["guten", "Morgen"], "de")
    assert {w.how for w in words} == {"interpolated"}


def test_unknown_words_are_pronounced_by_rule() -> None:
    assert arpabet("tʃɔɪs") == "CH OY S"
    found = pronounce(["blorptastic", "hello", "🎤"])
    assert found["hello"].split()[0] == "HH"
    assert len(found["blorptastic"].split()) > 6
    assert "🎤" not in found or found["🎤"]


def test_the_stage_fills_words_and_their_mean_score(speech: list[Clip]) -> None:
    clip = speech[2]
    said = Utterance("a", -1, 0, len(clip.samples), clip.samples, 16000, text=clip.text, language="en")
    silent = Utterance("b", -1, 0, len(clip.samples), clip.samples, 16000, text="", language="en")
    stage = Align(AlignOptions())
    stage.setup()
    block = stage(Block(0, 16000, utterances=[said, silent], samples_in=2 * len(clip.samples)))
    check(said.words, clip.text, said.duration_s)
    assert said.columns["align_score"] == pytest.approx(np.mean([w.score for w in said.words]))
    assert silent.words == []
    assert not block.rejections


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random wav2vec 2.0 CTC checkpoint in the format that transformers saves."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    folder = tmp_path_factory.mktemp("ctc")
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]
    (folder / "vocab.json").write_text(json.dumps({c: i for i, c in enumerate(letters)}))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    convolutions = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=len(letters), **shape, **convolutions)).save_pretrained(folder)
    return folder


def test_ctc_times_every_word_on_any_checkpoint(checkpoint: Path, speech: list[Clip]) -> None:
    stage = Align(AlignOptions(backend="ctc", model=str(checkpoint)))
    assert stage.weights()
    stage.setup()
    clip = speech[2]
    said = Utterance("a", -1, 0, len(clip.samples), clip.samples, 16000, text=f"Żółw 🎤 {clip.text}", language="en")
    stage(Block(0, 16000, utterances=[said]))
    check(said.words, said.text, said.duration_s)
    assert said.words[0].how == "ctc"  # romanised: Zolw
    assert said.words[1].how == "interpolated"
    assert {w.how for w in said.words[2:]} == {"ctc"}


def test_more_letters_than_frames_is_survived(checkpoint: Path, speech: list[Clip]) -> None:
    stage = Align(AlignOptions(backend="ctc", model=str(checkpoint)))
    stage.setup()
    text = "impossible " * 60
    for n in (10, 100, 1600, 16000):
        said = Utterance("a", -1, 0, n, speech[0].samples[:n], 16000, text=text, language="en")
        stage(Block(0, 16000, utterances=[said]))
        check(said.words, text, n / 16000)
        assert {w.how for w in said.words} == {"interpolated"}


def test_what_was_aligned_before_makes_no_difference(speech: list[Clip]) -> None:
    """Blocks come in any order, and a killed run starts in the middle: the aligner may not remember (fault 16)."""

    def scores(order: list[int]) -> dict[int, list[Word]]:
        aligner = GmmAligner(AlignOptions())
        return {i: aligner.align(speech[i].samples, speech[i].text.split(), "en") for i in order}

    assert scores([0, 1, 2]) == scores([2, 1, 0])
