"""The phone probe's labels: a reference's, and the project's own against it."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.bench.phones import CLASSES, UNKNOWN, GivenPhones, PhoneLabels, steps
from schemas import Utterance
from schemas.errors import UserError
from tests.conftest import Clip


def utterance(clip: Clip) -> Utterance:
    return Utterance(
        str(clip.path), -1, 0, len(clip.samples), clip.samples, clip.rate_hz, language="en", text=clip.text
    )


def test_our_phones_are_mostly_those_of_the_montreal_forced_aligner(shared: Path, ljspeech: list[Clip]) -> None:
    given, ours = GivenPhones(str(shared / "data" / "ljspeech.jsonl")), PhoneLabels()
    same = known = 0
    for clip in map(utterance, ljspeech[:4]):
        theirs, own = given(clip), ours(clip)
        assert theirs.shape == own.shape == steps(clip.duration_s).shape
        both = (theirs != UNKNOWN) & (own != UNKNOWN)
        known += int(both.sum())
        same += int((theirs == own)[both].sum())
        assert both.mean() > 0.8
    assert same / known > 0.7


def test_a_row_that_starts_later_in_its_recording_gets_the_phones_said_there(tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    phones = [{"p": "AH0", "s": 1.0, "e": 1.1}, {"p": "sp", "s": 1.1, "e": 1.2}, {"p": "spn", "s": 1.2, "e": 1.3}]
    manifest.write_text(json.dumps({"audio": "talks/one.flac", "phones": phones}) + "\n")
    row = Utterance("elsewhere/one.wav", -1, 16000, 24000, np.zeros(8000, np.float32), 16000)
    labels = GivenPhones(str(manifest))(row)
    assert labels.tolist() == [CLASSES.index("AH")] * 5 + [0] * 5 + [UNKNOWN] * 15
    other = Utterance("two.wav", -1, 0, 8000, np.zeros(8000, np.float32), 16000)
    assert set(GivenPhones(str(manifest))(other).tolist()) == {UNKNOWN}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file"),
        ("{", "line 1"),
        ('{"audio": "a.wav"}\n{"phones": []}', "line 2: KeyError: 'audio'"),
        ('{"audio": "a.wav", "phones": [{"p": "AH", "s": "soon", "e": 1}]}', "soon"),
        ("[1]", "line 1: TypeError"),
    ],
)
def test_a_manifest_that_is_none_is_named_with_its_line(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "m.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        GivenPhones(str(path))
    assert str(path) in str(caught.value)
