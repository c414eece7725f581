"""Transcripts of real speech: right, the same each time, and with upstream's rules for doubt."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import Block, Reason, Utterance, Word
from tests.conftest import Clip
from transforms.filter import FilterOptions, judge
from transforms.normalize import normalize
from transforms.transcribe.stage import Transcribe, TranscribeOptions, agreement


def block(clips: list[Clip], **given: object) -> Block:
    made = Block(0, 16000)
    for i, clip in enumerate(clips):
        n = len(clip.samples)
        made.utterances.append(Utterance(clip.path.name, -1, i, i + n, clip.samples, 16000, given=dict(given)))
    made.samples_in = sum(u.end - u.start for u in made.utterances)
    return made


def transcribed(clips: list[Clip], **options: object) -> Block:
    stage = Transcribe(TranscribeOptions(**options))  # type: ignore[arg-type]
    stage.setup()
    return stage(block(clips))


def word_error_rate(clips: list[Clip], found: Block) -> float:
    import jiwer

    said = [normalize(clip.text, "en") for clip in clips]
    return float(jiwer.wer(said, [normalize(u.text, "en") for u in found.utterances]))


@pytest.fixture(scope="module")
def clips(speech: list[Clip]) -> list[Clip]:
    return sorted(speech, key=lambda clip: len(clip.samples))[:4]


@pytest.fixture(scope="module")
def found(clips: list[Clip]) -> Block:
    return transcribed(clips, batch_size=4)


def test_whisper_reads_real_speech_and_keeps_its_doubts(found: Block, clips: list[Clip]) -> None:
    assert word_error_rate(clips, found) < 0.35
    for utterance in found.utterances:
        assert utterance.language == "en"
        assert utterance.columns["asr_model"] == "whisper-tiny"
        assert -1.0 < float(utterance.columns["asr_avg_logprob"]) < 0.0
        assert 0.0 <= float(utterance.columns["asr_no_speech_prob"]) <= 1.0
        assert float(utterance.columns["asr_compression_ratio"]) < 2.4
        assert 0.5 < float(utterance.columns["asr_language_prob"]) <= 1.0


def test_the_same_block_gives_the_same_text(found: Block, clips: list[Clip]) -> None:
    again = transcribed(clips, batch_size=4)
    assert [u.text for u in again.utterances] == [u.text for u in found.utterances]
    assert [u.columns for u in again.utterances] == [u.columns for u in found.utterances]


def test_sampling_follows_from_the_utterances_alone(clips: list[Clip]) -> None:
    texts = []
    for noise in (1, 2):
        import torch

        torch.manual_seed(noise)
        texts.append([u.text for u in transcribed(clips[:1], temperatures=(0.9,)).utterances])
    assert texts[0] == texts[1]


def test_a_failed_threshold_is_tried_again_hotter(clips: list[Clip]) -> None:
    cold = transcribed(clips[:1], temperatures=(0.0, 0.4), logprob_threshold=-0.001, no_speech_threshold=1.0)
    assert cold.utterances[0].columns["asr_temperature"] == pytest.approx(0.4)


def test_silence_by_upstreams_rule_has_no_text() -> None:
    quiet = Clip(Path("noise"), {"text": ""}, np.random.default_rng(0).normal(0, 1e-3, 32000).astype(np.float32), 16000)
    found = transcribed([quiet], no_speech_threshold=0.0, logprob_threshold=0.0)
    assert found.utterances[0].text == ""


def test_one_utterance_too_long_is_rejected_and_the_others_are_read(clips: list[Clip]) -> None:
    long = Clip(Path("long"), {"text": ""}, np.tile(clips[0].samples, 20)[: 31 * 16000], 16000)
    stage = Transcribe(TranscribeOptions())
    stage.setup()
    done = stage(block([clips[0], long]))
    assert len(done.utterances) == 1
    assert done.utterances[0].text
    (rejection,) = done.rejections
    assert rejection.reason is Reason.FAILED
    assert "31.00 s" in rejection.detail
    done.check_conserved()


def test_given_text_is_taken_as_it_stands(clips: list[Clip]) -> None:
    stage = Transcribe(TranscribeOptions(backend="given"))
    stage.setup()
    done = stage(block(clips[:1], text=" As \n given. "))
    assert done.utterances[0].text == "As given."
    assert "asr_model" not in done.utterances[0].columns
    assert stage.weights() == {}


def test_keep_given_recognises_only_the_rest(clips: list[Clip]) -> None:
    stage = Transcribe(TranscribeOptions(keep_given=True))
    stage.setup()
    made = block(clips[:2])
    made.utterances[0].given["text"] = "given"
    done = stage(made)
    assert done.utterances[0].text == "given"
    assert "asr_model" in done.utterances[1].columns


def test_moonshine_swaps_in_by_name(clips: list[Clip]) -> None:
    pytest.importorskip("moonshine_voice")
    found = transcribed(clips, backend="moonshine")
    assert word_error_rate(clips, found) < 0.35
    assert {u.columns["asr_model"] for u in found.utterances} == {"moonshine-tiny-en"}
    assert "asr_avg_logprob" not in found.utterances[0].columns


def test_a_second_recogniser_gives_its_text_and_their_agreement(found: Block, clips: list[Clip]) -> None:
    pytest.importorskip("moonshine_voice")
    both = transcribed(clips, batch_size=4, second={"backend": "moonshine"})
    assert [u.text for u in both.utterances] == [u.text for u in found.utterances]
    alone = transcribed(clips, backend="moonshine")
    assert [u.columns["asr_text_2"] for u in both.utterances] == [u.text for u in alone.utterances]
    for u in both.utterances:
        assert u.columns["asr_agreement"] == agreement(u.text, str(u.columns["asr_text_2"]), "en")
    assert "asr_agreement" not in found.utterances[0].columns


def test_a_given_text_is_compared_as_well_and_another_one_is_turned_away(clips: list[Clip]) -> None:
    pytest.importorskip("moonshine_voice")
    stage = Transcribe(TranscribeOptions(backend="given", second={"backend": "moonshine"}))  # type: ignore[arg-type]
    stage.setup()
    made = block(clips[:2])
    for u in made.utterances:
        u.given["text"] = clips[0].text
    right, wrong = stage(made).utterances
    options = FilterOptions(min_agreement=0.5, min_align_score=None)
    for u in (right, wrong):
        u.words = [Word(u.text, 0.0, 1.0, 1.0, "given")]
    assert judge(right, options, "joint") is None
    reason, detail = judge(wrong, options, "joint") or (None, "")
    assert reason is Reason.DISAGREED
    assert "asr_agreement" in detail
    assert judge(wrong, FilterOptions(min_align_score=None), "joint") is None


@pytest.mark.parametrize(
    ("text", "other", "language", "expected"),
    [
        ("The old cat sat.", "the old cat, ran", "en", 0.75),
        ("", "", "en", 1.0),
        ("a word", "", "en", 0.0),
        ("", "a word", "en", 0.0),
        ("oui", "non non non non", "fr", 0.0),
        ("今日は雨です", "今日は雪です", "ja", 5 / 6),
    ],
)
def test_agreement(text: str, other: str, language: str, expected: float) -> None:
    assert agreement(text, other, language) == pytest.approx(expected)


@given(st.text(max_size=40), st.text(max_size=40))
def test_agreement_is_a_share_and_whole_with_oneself(text: str, other: str) -> None:
    assert 0.0 <= agreement(text, other, "") <= 1.0
    assert agreement(text, text, "") == 1.0


def test_the_second_recognisers_weights_count(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    one = Transcribe(TranscribeOptions(backend="given", second={"backend": "transformers", "model": str(tmp_path)}))  # type: ignore[arg-type]
    before = one.fingerprint()["weights"]
    assert list(before) == [str(tmp_path)]
    (tmp_path / "config.json").write_text("{ }")
    assert one.fingerprint()["weights"] != before


def test_a_given_language_is_held_against_the_sound(clips: list[Clip]) -> None:
    stage = Transcribe(TranscribeOptions(backend="given", check_language="whisper-tiny"))
    stage.setup()
    made = block([clips[0]] * 3, text="Guten Morgen")
    for utterance, language in zip(made.utterances, ("de", "", "xx"), strict=True):
        utterance.language = language
    wrong, right, unknown = stage(made).utterances
    assert float(wrong.columns["asr_given_language_prob"]) < 0.1
    assert (right.language, float(right.columns["asr_given_language_prob"]) > 0.9) == ("en", True)
    assert "asr_given_language_prob" not in unknown.columns
    assert set(stage.weights()) == {"whisper-tiny"}
