"""Names of the bench: what they mean, and what is said of those that mean nothing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.bench import subjects
from schemas import Utterance, Word
from schemas.errors import UserError
from tests.conftest import Clip
from transforms.codec.stage import Codec, CodecOptions
from transforms.units.stage import Units, UnitsOptions


def utterance(clip: Clip) -> Utterance:
    return Utterance("clip", -1, 0, len(clip.samples), clip.samples, clip.rate_hz, language="en", text=clip.text)


def test_settings_after_the_colon_are_the_stage_s_options() -> None:
    assert subjects.parse("codec:n_codebooks=2") == ("codec", CodecOptions(n_codebooks=2))
    kind, options = subjects.parse("lyra:n_codebooks=30")
    assert kind == "codec"
    assert isinstance(options, CodecOptions)
    assert (options.backend, options.n_codebooks) == ("lyra", 30)
    assert subjects.parse("units:layer=2,quantizer=a.safetensors") == (
        "units",
        UnitsOptions(layer=2, quantizer="a.safetensors"),
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unitz", "no such tokenizer"),
        ("", "no such tokenizer"),
        ("original:x=1", "no such tokenizer"),
        ("codec:n_codebook=2", "did you mean n_codebooks?"),
        ("codec:n_codebooks=many", "n_codebooks"),
        ("codec:2", "codec:field=value"),
    ],
)
def test_a_wrong_name_is_said_with_what_there_is(name: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        subjects.parse(name)
    assert words in str(caught.value)
    assert f"--tokenizer {name}" in str(caught.value)


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json"):
        subjects.parse(str(tmp_path))
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "encodec"}))
    assert subjects.parse(str(tmp_path)) == ("codec", CodecOptions(backend="transformers", model=str(tmp_path)))
    config.write_text(json.dumps({"n_q": 8, "semantic_dimension": 768}))
    assert subjects.parse(str(tmp_path)) == ("codec", CodecOptions(backend="speechtokenizer", model=str(tmp_path)))
    config.write_text(json.dumps({"model_type": "hubert", "conv_kernel": [10], "feat_extract_norm": "group"}))
    with pytest.raises(UserError, match="units:backend=transformers"):
        subjects.parse(str(tmp_path))
    config.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        subjects.parse(str(tmp_path))


def test_units_are_those_of_the_stage_with_their_times(speech: list[Clip]) -> None:
    clip = utterance(speech[0])
    tokens = subjects.make("units").encode(clip)
    assert clip.units is None  # the clip itself is left alone
    stage = Units(UnitsOptions())
    stage.setup()
    from schemas import Block

    done = stage(Block(0, clip.rate_hz, utterances=[utterance(speech[0])])).utterances[0]
    np.testing.assert_array_equal(tokens.codes[0], np.repeat(done.units, done.unit_run_lengths))
    assert tokens.starts_s[50] == pytest.approx(1.0)
    assert tokens.ends_s[-1] <= clip.duration_s


def test_codes_are_those_of_the_stage_and_come_back_as_sound(speech: list[Clip]) -> None:
    clip = utterance(min(speech, key=lambda c: len(c.samples)))
    subject = subjects.make("codec:n_codebooks=2")
    stage = Codec(CodecOptions(n_codebooks=2))
    stage.setup()
    tokens = subject.encode(clip)
    from schemas import Block

    codes = stage(Block(0, clip.rate_hz, utterances=[clip])).utterances[0].codec_codes
    np.testing.assert_array_equal(tokens.codes, codes)
    sound, rate_hz = subject.decode(tokens)
    assert len(sound) / rate_hz == pytest.approx(clip.duration_s, abs=0.05)
    # The first codebook alone is a codec of one.
    assert subject.has_prefix
    one = subjects.make("codec:n_codebooks=1")
    assert not one.has_prefix
    first, _ = subject.decode(replace(tokens, codes=tokens.codes[:1]))
    np.testing.assert_array_equal(first, one.decode(one.encode(clip))[0])
    assert np.abs(first - sound).max() > 0.01


def test_taste_has_a_tuple_for_each_word_at_its_time(speech: list[Clip]) -> None:
    clip = utterance(speech[0])
    clip.text = "one two"
    clip.words = [Word("one", 0.5, 0.9, 1.0, "given"), Word("two", 1.0, 1.5, 1.0, "given")]
    subject = subjects.make("taste")
    tokens = subject.encode(clip)
    assert tokens.codes.shape == (len(subject.sizes), 2)
    assert (tokens.starts_s.tolist(), tokens.ends_s.tolist()) == ([0.5, 1.0], [0.9, 1.5])
    clip.words = []
    assert subject.encode(clip).codes.shape == (len(subject.sizes), 0)
    assert not subject.has_sound
