"""Alignment of real speech against reference times, and of what does not fit."""

import json
from pathlib import Path

import numpy as np
import pytest

from schemas import Block, Utterance, Word
from tests.conftest import Clip, read_clips
from transforms.align.chars import CharAligner
from transforms.align.ctc import CtcAligner
from transforms.align.gmm import GmmAligner
from transforms.align.joint import JointAligner
from transforms.align.stage import BACKENDS, Align, Aligner, AlignOptions
from transforms.resample import resample


@pytest.fixture(scope="module")
def joint(shared: Path) -> JointAligner:
    return JointAligner(AlignOptions())


@pytest.fixture(scope="module")
def aligners(joint: JointAligner) -> dict[str, Aligner]:
    """One of each that needs no checkpoint, sharing their models."""
    chars = CharAligner(AlignOptions(backend="chars"))
    return {"joint": joint, "phones": joint._phones, "gmm": GmmAligner(AlignOptions()), "chars": chars}


def at_16k(clip: Clip) -> np.ndarray:
    return resample(clip.samples, clip.rate_hz, 16000)


def check(words: list[Word], text: str, duration_s: float) -> None:
    assert [w.text for w in words] == text.split()
    at = 0.0
    for word in words:
        assert at <= word.start_s <= word.end_s <= duration_s
        assert 0.0 <= word.score <= 1.0
        at = word.end_s


def errors(words: list[Word], reference: list[dict]) -> list[float]:
    """Of all boundaries, in seconds; none where the transcript and the reference do not have the same words."""
    if len(words) != len(reference):
        return []
    pairs = zip(words, reference, strict=True)
    return [abs(e) for w, r in pairs for e in (w.start_s - r["s"], w.end_s - r["e"])]


# On all 20 clips and recognised text: benchmarks/alignment.py. Six clips scatter more.
@pytest.mark.parametrize(
    ("backend", "median", "tenth", "how"),
    [
        ("joint", 0.016, 0.045, "ctc"),
        ("phones", 0.018, 0.06, "ctc"),
        ("gmm", 0.018, 0.06, "gmm"),
        ("chars", 0.03, 0.09, "ctc"),
    ],
)
def test_boundaries_are_near_the_reference(
    aligners: dict[str, Aligner], ljspeech: list[Clip], backend: str, median: float, tenth: float, how: str
) -> None:
    found = []
    for clip in ljspeech:
        words = aligners[backend].align(at_16k(clip), clip.text.split(), "en")
        check(words, clip.text, len(at_16k(clip)) / 16000)
        assert {w.how for w in words} == {how}
        found += errors(words, clip.line["words"])
    assert len(found) > 100
    assert np.median(found) < median
    assert np.percentile(found, 90) < tenth


@pytest.mark.parametrize("backend", ["joint", "phones", "gmm", "chars"])
@pytest.mark.parametrize(
    "text", ["Zxqv Printing, in 1455 — the £13.60 🎤 Schnickelfritz said.", "🎤 —", "a", "— …", "東京タワー שלום हिन्दी"]
)
def test_every_word_is_timed_whatever_it_is(
    aligners: dict[str, Aligner], ljspeech: list[Clip], backend: str, text: str
) -> None:
    samples = at_16k(ljspeech[1])
    check(aligners[backend].align(samples, text.split(), "en"), text, len(samples) / 16000)


@pytest.mark.parametrize(("backend", "right", "wrong"), [("phones", 0.5, 0.25), ("gmm", 0.2, 0.1)])
def test_the_right_text_scores_far_above_a_wrong_one(
    aligners: dict[str, Aligner], ljspeech: list[Clip], backend: str, right: float, wrong: float
) -> None:
    samples = at_16k(ljspeech[0])
    scores = [
        np.mean([w.score for w in aligners[backend].align(samples, clip.text.split(), "en")])
        for clip in (ljspeech[0], ljspeech[2])
    ]
    assert scores[0] > right
    assert scores[1] < wrong


@pytest.mark.parametrize("backend", ["joint", "phones", "gmm", "chars"])
def test_noise_and_text_that_cannot_fit_do_no_harm(aligners: dict[str, Aligner], backend: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    text = "far more words than half a second of noise can hold " * 8
    for n in (0, 1, 100, 320, 1600, 8000):
        words = aligners[backend].align(noise[:n], text.split(), "en")
        check(words, text, n / 16000)
        assert {w.how for w in words} == {"interpolated"}


def test_a_gmm_alone_lays_another_language_out_and_says_so(aligners: dict[str, Aligner], ljspeech: list[Clip]) -> None:
    words = aligners["gmm"].align(ljspeech[0].samples, ["guten", "Morgen"], "de")
    assert {w.how for w in words} == {"interpolated"}


@pytest.mark.parametrize("at", [3, 8, 12])
def test_a_symbol_takes_the_time_of_the_word_it_stands_for(joint: JointAligner, ljspeech: list[Clip], at: int) -> None:
    clip = ljspeech[0]
    words, reference = clip.text.split(), clip.line["words"]
    words[at] = "🎤"
    found = joint.align(at_16k(clip), words, "en")
    assert [w.how for w in found] == ["wildcard" if i == at else "ctc" for i in range(len(words))]
    middle = (found[at].start_s + found[at].end_s) / 2
    assert reference[at]["s"] <= middle <= reference[at]["e"]
    assert found[at].end_s - found[at].start_s > 0.3 * (reference[at]["e"] - reference[at]["s"])
    others = [e for w, r in zip(found, reference, strict=True) if w.text != "🎤" for e in errors([w], [r])]
    assert np.median(others) < 0.02


def test_a_symbol_that_nobody_says_leaves_the_others_where_they_are(joint: JointAligner, ljspeech: list[Clip]) -> None:
    clip = ljspeech[0]
    words = clip.text.split()
    found = joint.align(at_16k(clip), [*words[:10], "🎤", *words[10:]], "en")
    assert found[10].how == "wildcard"
    assert np.median(errors(found[:10] + found[11:], clip.line["words"])) < 0.02


def test_digits_lie_where_they_are_said(joint: JointAligner, shared: Path) -> None:
    clip = read_clips("ljspeech.jsonl", 7)[6]
    reference = clip.line["words"]
    assert [w["w"] for w in reference[-3:]] == ["fourteen", "fifty", "five"]
    words = clip.text.split()
    said = words[: next(i for i, w in enumerate(words) if w == "about") + 1]
    found = joint.align(at_16k(clip), [*said, "1455,"], "en")
    assert (found[-1].text, found[-1].how) == ("1455,", "ctc")
    assert abs(found[-1].start_s - reference[-3]["s"]) < 0.1
    assert abs(found[-1].end_s - reference[-1]["e"]) < 0.1


def test_punctuation_lies_in_the_pause(joint: JointAligner, ljspeech: list[Clip]) -> None:
    clip = ljspeech[0]  # "... at present concerned, | differs from ..." pauses for 0.42 s
    words = clip.text.split()
    at = words.index("differs")
    found = joint.align(at_16k(clip), [*words[:at], "—", *words[at:]], "en")
    assert found[at].how == "interpolated"
    assert found[at].end_s - found[at].start_s > 0.3


def test_the_stage_fills_words_and_their_mean_score(speech: list[Clip]) -> None:
    clip = speech[2]
    said = Utterance("a", -1, 0, len(clip.samples), clip.samples, 16000, text=clip.text, language="en")
    silent = Utterance("b", -1, 0, len(clip.samples), clip.samples, 16000, text="", language="en")
    stage = Align(AlignOptions())
    assert set(stage.weights()) == {"antiphon-phones", "whisper-tiny"}
    stage.setup()
    block = stage(Block(0, 16000, utterances=[said, silent], samples_in=2 * len(clip.samples)))
    check(said.words, clip.text, said.duration_s)
    assert {w.how for w in said.words} == {"ctc"}
    assert said.columns["align_score"] == pytest.approx(np.mean([w.score for w in said.words]))
    assert silent.words == []
    assert not block.rejections


def test_the_same_sound_gives_the_same_times(joint: JointAligner, ljspeech: list[Clip]) -> None:
    clip = ljspeech[1]
    first, _, again = (joint.align(at_16k(c), c.text.split(), "en") for c in (clip, ljspeech[3], clip))
    assert first == again


def test_all_backends_are_offered() -> None:
    assert set(BACKENDS) == set(AlignOptions.model_fields["backend"].annotation.__args__)  # type: ignore[union-attr]


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
    assert said.words[1].how == "wildcard"
    assert {w.how for w in said.words[2:]} == {"ctc"}


def test_ctc_windows_tile_a_long_recording(checkpoint: Path, speech: list[Clip]) -> None:
    aligner = CtcAligner(AlignOptions(backend="ctc", model=str(checkpoint)))
    assert (aligner._stride, aligner._field) == (320, 400)
    samples = np.concatenate([clip.samples for clip in speech] * 2)
    for n in (15 * 16000, 22 * 16000 + 1, 40 * 16000 + 7, len(samples)):
        assert len(aligner._emissions(samples[:n])) == (n - 400) // 320 + 1
    text = " ".join([clip.text for clip in speech] * 2)
    check(aligner.align(samples, text.split(), "en"), text, len(samples) / 16000)


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
