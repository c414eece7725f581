"""Dialogues: sayable text, turns written the same each time, and real voices."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dialogues import DialogueOptions, plan_dialogues, stages
from pipeline.sources import SourceError
from schemas import Block, Piece, Reason
from transforms.dialogue.speak import Speak, SpeakOptions
from transforms.dialogue.write import Write, WriteOptions, speakable
from transforms.espeak import EspeakError, phonemes, speak, speak_timed
from transforms.weights import MissingWeights, locate

_MARKUP = set('*_`#|~<>[]{}()"\n\t')


@given(st.text(max_size=200))
def test_what_is_sayable_has_no_markup_and_stays_as_it_is(text: str) -> None:
    said = speakable(text)
    assert not _MARKUP & set(said)
    assert said == " ".join(said.split())
    assert not said or any(c.isalnum() for c in said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Well, **yes**! And then", "Well, yes!"),
        ("- one\n- two", "one two"),
        ("1. First.\n2. Second.", "First. Second."),
        ("See https://x.y/z (or not) 🎤.", "See ."),
        ("It costs 3.50 now. Then", "It costs 3.50 now."),
        ("```code```", ""),
        ("🎤 ...", ""),
    ],
)
def test_markup_lists_links_and_brackets_go(text: str, said: str) -> None:
    assert speakable(text) == said


def test_the_same_text_has_the_same_samples_whatever_was_said_before() -> None:
    first, rate_hz = speak("She sells sea shells.")
    speak("Fish.")
    again, _ = speak("She sells sea shells.")
    assert np.array_equal(first, again)
    assert 0.8 < len(first) / rate_hz < 4
    assert np.abs(first).max() > 0.1
    assert len(speak("She sells sea shells by the sea shore, they say.")[0]) > 1.5 * len(first)


def test_an_unknown_voice_is_named() -> None:
    with pytest.raises(EspeakError, match="no-such"):
        speak("hello", "no-such")
    assert phonemes(["hello", ""]) == [["həlˈoʊ"], []]


def test_a_language_is_as_good_as_a_name() -> None:
    assert len(speak("hello", "en-gb")[0]) == len(speak("hello", "en")[0])
    assert len(speak("bonjour", "fr-fr")[0]) > 4000


def test_words_begin_where_the_library_says() -> None:
    text = "Guten Morgen, Straßenbahn"
    samples, rate_hz, words = speak_timed(text, "de")
    np.testing.assert_array_equal(samples, speak(text, "de")[0])
    assert [position for position, _ in words] == [0, 6, 14]
    starts = [round(start_s * rate_hz) for _, start_s in words]
    assert starts == sorted(starts)
    # The comma's pause lies before the last word, which begins where the sound does again.
    pause, word = samples[starts[2] - rate_hz // 20 : starts[2]], samples[starts[2] : starts[2] + rate_hz // 5]
    assert np.abs(pause).max() < 0.01 < 0.05 < np.abs(word).max()


def spoken(text: str, backend: str = "espeak", **options: Any) -> Block:
    stage = Speak(SpeakOptions(backend=backend, **options))  # type: ignore[arg-type]
    try:
        stage.setup()
    except MissingWeights as error:
        pytest.skip(str(error))
    return stage(Block(0, 16000, pieces=[Piece("d#0", "", "f", given={"text": text, "role": "assistant"})]))


def test_a_spoken_turn_counts_its_samples_and_names_its_voice() -> None:
    block = spoken("Good morning.")
    (piece,) = block.pieces
    assert block.samples_in == len(piece.samples[0]) > 8000
    assert piece.given["speaker"] == "espeak/en-gb"


def test_what_cannot_be_said_is_rejected_and_the_run_goes_on() -> None:
    for block in (spoken(""), spoken("hello", voices={"assistant": "no-such"})):
        (rejection,) = block.rejections
        assert rejection.reason is Reason.FAILED
        assert rejection.detail
        assert block.samples_in == 0


def test_kokoro_says_what_whisper_hears(shared: Path) -> None:
    import whisper

    from transforms.normalize import normalize
    from transforms.resample import resample
    from transforms.whisper_model import load_whisper

    block = spoken("The weather is fine today, and the birds are singing.", "kokoro")
    heard = whisper.transcribe(
        load_whisper("whisper-tiny"), resample(block.pieces[0].samples[0], 16000, 16000), language="en"
    )
    assert normalize(str(heard["text"]), "en") == "the weather is fine today and the birds are singing"


def test_coqui_without_its_package_says_what_to_install() -> None:
    try:
        import TTS  # noqa: F401
    except ImportError:
        from schemas.errors import UserError

        with pytest.raises(UserError, match=r"antiphon\[tts\]"):
            spoken("hello", "coqui")
    else:
        pytest.skip("coqui-tts is installed here: its own test applies")


def test_given_turns_pass_and_order_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    turns = [{"role": "user", "text": "Hi *there*"}, {"role": "assistant", "text": "Hello."}]
    path.write_text("\n".join(json.dumps({"id": f"d{i}", "turns": turns}) for i in range(5)))
    options = DialogueOptions(file=str(path), per_block=2)
    blocks = plan_dialogues(options, rate_hz=16000, heldout_share=0.3)
    assert [len(b.pieces) for b in blocks] == [2, 2, 1]
    write = stages(options)[0]
    write.setup()
    assert write.weights() == {}
    first = write(blocks[0]).pieces
    assert [(p.source, p.given["role"], p.given["text"], p.given["turn"]) for p in first[:2]] == [
        ("dialogue/d0#0", "user", "Hi there", 0),
        ("dialogue/d0#1", "assistant", "Hello.", 1),
    ]
    assert first[0].given["split"] == first[1].given["split"]


def test_mistakes_in_the_file_are_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"id": "a", "prompt": "hi"}\n{"id": "a", "prompt": "hi"}\nnonsense\n{"id": "b"}\n')
    with pytest.raises(SourceError) as caught:
        plan_dialogues(DialogueOptions(file=str(path)), rate_hz=16000)
    assert [line.partition(": ")[0].rpartition(":")[2] for line in str(caught.value).splitlines()] == ["2", "3", "4"]
    with pytest.raises(SourceError, match=r"dialogues\.file or dialogues\.prompts"):
        plan_dialogues(DialogueOptions(), rate_hz=16000)


def test_an_llm_writes_the_same_dialogue_for_the_same_id() -> None:
    try:
        locate("smollm2-135m-instruct")
    except MissingWeights as error:
        pytest.skip(str(error))
    stage = Write(WriteOptions(max_new_tokens=24, turns=3), needs_model=True)
    stage.setup()

    def written(*names: str) -> dict[str, list[str]]:
        pieces = [Piece(f"dialogue/{n}", "", "f", given={"dialogue_id": n, "prompt": "What is rain?"}) for n in names]
        found: dict[str, list[str]] = {}
        for piece in stage(Block(0, 16000, pieces=pieces)).pieces:
            found.setdefault(piece.given["dialogue_id"], []).append(piece.given["text"])
        return found

    first, second = written("a", "b"), written("b", "a")
    assert first == second
    assert first["a"] != first["b"]
    assert first["a"][0] == "What is rain?"
    assert len(first["a"]) >= 2
