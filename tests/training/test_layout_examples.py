"""The published systems' worked examples, as they are drawn in their code and papers."""

from dataclasses import replace

import numpy as np
import pytest

from schemas import Tokenizer
from schemas.errors import UserError
from tests.training.laid import CARDS, STARTS, V, layout_of, line, shown
from training.layouts import Example, Layout
from training.layouts.base import BOTH, IGNORE, NOTHING, SPEECH, TEXT
from training.layouts.chunks import ChunkLayout, alternate
from training.layouts.ctc import CtcLayout, collapse, states_needed, upsampled
from training.layouts.interleave import InterleaveLayout
from training.layouts.spans import alternating, generator, poisson, word_bounds
from training.layouts.text_speech import TextSpeechLayout

UNITS_25_HZ = Tokenizer("units", "u", "r", 16000, 640, (1000,), "floor")


def units_layout(name: str, **options: object) -> Layout:
    return layout_of(name, CARDS | {"units": UNITS_25_HZ}, **options)


def example(words: list[list[int]], times: list[float], units: list[int], runs: list[int] | None = None) -> Example:
    """Words that meet at `times`, `[W + 1]`."""
    at = np.array(times or [0.0])
    lengths = np.array(runs or [1] * len(units), dtype=np.int64)
    codes = np.zeros((0, 0), dtype=np.int64)
    return Example(
        words, at[:-1].copy(), codes, "row", float(at[-1]), at[1:].copy(), np.array(units, dtype=np.int64), lengths
    )


# One stream: Spirit-LM and SIMS, Spectron, SpeechGPT

SIMS = example([[0], [1], [2]], [0.0, 0.22, 0.50, 0.80], [12, 7, 33, 5, 90, 41, 8], [3, 2, 4, 1, 5, 2, 3])
SIMS_NAMES = {0: " the", 1: " cat", 2: " sat"}


def test_sims_worked_example() -> None:
    """`<text> the<speech><Un33><Un5><text> sat`: 90 ends at 0.60 s and is of `sat`."""
    layout = units_layout("sims")
    assert isinstance(layout, InterleaveLayout)
    laid = layout.lay_out(SIMS, np.array([False, True, False]))
    marks = {"[Text]": "<text>", "[Speech]": "<speech>", "eos": ""}
    written = [
        marks.get(name, f"<Un{name}>" if name.isdigit() else name) for name in line(layout, laid.inputs, SIMS_NAMES)
    ]
    assert "".join(written) == "<text> the<speech><Un33><Un5><text> sat"
    assert laid.modality.tolist() == [SPEECH, TEXT, TEXT, SPEECH, SPEECH, SPEECH, TEXT, TEXT]


def test_spirit_lm_worked_example() -> None:
    """`[Text]the cat [Speech][Hu3][Hu7]..[Hu200][Text]the mat`, each mark said by the row before it."""
    layout = units_layout("spirit-lm")
    assert isinstance(layout, InterleaveLayout)
    said = example([[0], [1], [2], [3], [0], [4]], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2], list(range(30)))
    said.units[10:20] = [3, 7, 44, 45, 46, 47, 48, 49, 50, 200]
    laid = layout.lay_out(said, np.array([False, False, True, True, False, False]))
    names = {0: "the ", 1: "cat ", 2: "sat ", 3: "on ", 4: "mat"}
    written = [f"[Hu{n}]" if n.isdigit() else n for n in line(layout, laid.inputs, names)]
    assert "".join(written) == (
        "[Text]the cat [Speech][Hu3][Hu7][Hu44][Hu45][Hu46][Hu47][Hu48][Hu49][Hu50][Hu200][Text]the mateos"
    )
    table = shown(layout, laid.labels, names)
    assert table[0][2] == "[Speech]"  # after `cat `, among text
    assert table[1][13] == "[Text]"  # after 200, among units
    assert table[0][0] == "the "
    assert table[1][0] == "-"


@pytest.mark.parametrize("mask", [[0, 1, 0], [1, 0, 1], [1, 1, 1], [0, 0, 0], [0, 1, 1]])
def test_no_unit_is_lost_or_twice_at_a_border(mask: list[int]) -> None:
    """Each unit is in one word, also those that end on a border or lie across it: what is not text is there, once."""
    layout = units_layout("sims")
    assert isinstance(layout, InterleaveLayout)
    # 33 ends on the border at 0.50 - in slamkit in both words - and 5 lies across the one at 0.80, mostly in `cat`.
    said = example([[0], [1], [2]], [0.0, 0.24, 0.52, 0.80], [12, 7, 33, 5, 90], [3, 3, 7, 5, 2])
    assert word_bounds(said, 25.0).tolist() == [0, 2, 3, 5]
    speech = np.array(mask, dtype=bool)
    found = layout.undo(layout.lay_out(said, speech).inputs)
    by_word = [[12, 7], [33], [5, 90]]
    assert found.units.tolist() == [
        unit for units, spoken in zip(by_word, mask, strict=True) if spoken for unit in units
    ]
    assert found.words == [word for word, spoken in zip(said.words, mask, strict=True) if not spoken]


def test_a_unit_is_of_the_word_that_has_most_of_it() -> None:
    """A word keeps a unit that ends after it, where slamkit loses it, and words meet in the middle of a silence."""
    said = example([[0], [1]], [0.0, 0.4, 0.8], [1, 2, 3], [8, 4, 8])  # 2 lies from 0.32 to 0.48 s
    said.ends_s[0] = 0.42
    assert word_bounds(said, 25.0).tolist() == [0, 2, 3]
    said.ends_s[0], said.starts_s[1] = 0.30, 0.70  # the silence is cut at 0.5 s
    assert word_bounds(said, 25.0).tolist() == [0, 2, 3]
    said.starts_s[1] = 5.0  # after the end of the sound
    assert word_bounds(said, 25.0).tolist() == [0, 3, 3]


def test_spans_follow_their_law_and_depend_on_the_id_alone() -> None:
    draws = [poisson(generator(str(i), 0), 100, 10.0, 0.3) for i in range(200)]
    shares = np.array([speech.mean() for speech in draws])
    assert (shares >= 0.3).all()
    assert shares.mean() < 0.38  # the last span goes past the share by half a span or so
    starts = [np.flatnonzero(np.diff(np.r_[0, speech.astype(int)]) == 1) for speech in draws]
    assert 2 <= np.mean([len(s) for s in starts]) <= 4
    spans = [alternating(generator(str(i), 0), 1000, 10) for i in range(20)]
    lengths = np.concatenate([np.diff(np.flatnonzero(np.diff(s.astype(int)))) for s in spans])
    assert (lengths.min(), lengths.max()) == (1, 10)
    assert np.bincount(lengths)[1:].min() > 0.7 * np.bincount(lengths)[1:].max()
    assert 0.45 < np.mean([s.mean() for s in spans]) < 0.55
    assert {bool(s[0]) for s in spans} == {True, False}
    np.testing.assert_array_equal(alternating(generator("a", 1), 50, 9), alternating(generator("a", 1), 50, 9))
    assert (alternating(generator("a", 1), 50, 9) != alternating(generator("a", 2), 50, 9)).any()
    assert [int(poisson(generator("x", 0), n, 0.001, 0.5).sum()) for n in (0, 1, 2, 9)] == [0, 1, 1, 5]


def test_spectron_order() -> None:
    """[prompt] t1 t2 t3 (its transcript) | t4 t5 (continuation) | speech; the prompt ends with a word."""
    layout = units_layout("spectron", prompt_s=0.5)
    said = example([[1], [2], [3], [4], [5]], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [*range(10, 35)])
    laid = layout.apply(said)
    prompt, rest = [str(u) for u in range(10, 20)], [str(u) for u in range(20, 35)]
    text = ["1", "2", "3", "4", "5"]
    assert line(layout, laid.inputs) == ["[Speech]", *prompt, "[Text]", *text, "[Speech]", *rest, "eos"]
    table = shown(layout, laid.labels)
    assert table[0][11:17] == [*text, "[Speech]"]
    assert table[1][:17] == ["-"] * 17
    assert table[1][17:] == [*rest, "eos", "-"]
    assert line(layout, units_layout("text-speech").apply(said).inputs)[:3] == ["bos", "1", "2"]
    short = units_layout("spectron")  # half of the words at the most
    assert isinstance(short, TextSpeechLayout)
    assert short.n_prompt(said) == 10


def test_speechgpt_worked_example() -> None:
    layout = units_layout("speechgpt")
    user = example([[0], [1]], [0.0, 0.1, 0.2], [189, 7, 511])
    answer = example([[2]], [0.0, 0.2], [44, 9])
    user.role, answer.role = "user", "assistant"
    turns = replace(user, words=user.words + answer.words, turns=[user, answer])
    laid = layout.apply(turns)
    names = {0: "hi", 1: "there", 2: "hello"}
    written = [f"<{n}>" if n.isdigit() else n for n in line(layout, laid.inputs, names)]
    assert " ".join(written) == (
        "[Human]: <sosp> <189> <7> <511> <eosp> <eoh> [SpeechGPT]: hi there ; [ta] hello ; [ua] <sosp> <44> <9> <eosp> <eoa>"
    )
    # The user's speech and the template before the answer are given; each mark of the template is one id.
    assert (laid.labels[:7] == IGNORE).all()
    assert shown(layout, laid.labels, names)[0][7:13] == ["hi", "there", "; [ta]", "hello", "; [ua]", "<sosp>"]


# Chunks


def spoken(n_text: int, n_units: int) -> Example:
    return example([[i % STARTS] for i in range(n_text)], [0.1 * i for i in range(n_text + 1)], list(range(n_units)))


def marked(layout: Layout, inputs: np.ndarray) -> list[str]:
    """Numbered: t1, t2, ... and a1, a2, ...; marks by name, with a + where they stand beside another id."""
    counts, out = [0, 0], []
    for column in inputs:
        here = []
        for r, i in enumerate(column):
            if i >= layout.rows[r].size:
                here.append(layout.rows[r].specials[i - layout.rows[r].size])
            elif i != NOTHING:
                counts[r] += 1
                here.append("ta"[r] + str(counts[r]))
        out.append("+".join(here))
    return out


def numbered(letter: str, start: int, end: int) -> list[str]:
    return [f"{letter}{i}" for i in range(start, end + 1)]


def test_glm_4_voice_worked_example() -> None:
    """t1..t13 a1..a26 t14..t26 a27..a52 t27 t28 t29 a53..a78 a79 ... <|user|>: the text's end takes no position."""
    layout = units_layout("glm-4-voice")
    laid = layout.apply(spoken(29, 90))
    assert marked(layout, laid.inputs) == [
        "bos",
        *(numbered("t", 1, 13) + numbered("a", 1, 26)),
        *(numbered("t", 14, 26) + numbered("a", 27, 52)),
        *([*numbered("t", 27, 29), "end+a53", *numbered("a", 54, 90)]),
        "eos",
    ]
    assert laid.modality.tolist().count(BOTH) == 1
    # After a26 the next is a text token by counting; after t29 the end is learnt beside the first unit.
    assert laid.labels[29 + 52].tolist() == [layout.rows[0].special("end"), 52]
    assert laid.labels[39].tolist() == [13 % STARTS, IGNORE]
    # The first sound needs 13 + 10 = 23 ids, ten units being a block of 0.8 s.
    assert marked(layout, laid.inputs)[1:24] == numbered("t", 1, 13) + numbered("a", 1, 10)


def test_a_chunk_that_ends_with_the_text_says_so_after_it() -> None:
    layout = units_layout("glm-4-voice")
    assert marked(layout, layout.apply(spoken(13, 30)).inputs)[13:] == [
        *("t13", *numbered("a", 1, 26), "end+a27", "a28", "a29", "a30", "eos")
    ]


def test_text_that_outlasts_the_sound_is_kept_and_counted() -> None:
    """Fast speech: 20 units for 29 tokens. The text goes on after the units' end."""
    layout = units_layout("glm-4-voice")
    laid = layout.apply(spoken(29, 20))
    assert marked(layout, laid.inputs) == [
        *("bos", *numbered("t", 1, 13), *numbered("a", 1, 20), "eos", *numbered("t", 14, 29), "end")
    ]
    assert laid.shifted == 16
    assert layout.apply(spoken(29, 60)).shifted == 0


def test_llama_omni2_worked_example() -> None:
    """f1 f2 f3 u1..u10 f4 f5 f6 u11..u20 f7 <sep> u21 u22 ... eos; only units are learnt."""
    layout = units_layout("llama-omni2")
    laid = layout.apply(spoken(7, 23))
    assert marked(layout, laid.inputs) == [
        *("bos", "t1", "t2", "t3", *numbered("a", 1, 10), "t4", "t5", "t6", *numbered("a", 11, 20)),
        *("t7", "end", "a21", "a22", "a23", "eos"),
    ]
    assert (laid.labels[:, 0] == IGNORE).all()
    assert (laid.labels[:, 1] != IGNORE).sum() == 24


def test_cosyvoice2_worked_example() -> None:
    """in: sos x1 x2 x3 x4 x5 s1 .. s15 x6 .. x10 s16 ..   label: - - - - - s1 s2 .. s15 FILL - - - - s16 ..

    FILL is learnt at s15, and stands beside x6, so that inputs and labels have the published length.
    """
    layout = units_layout("cosyvoice2")
    assert isinstance(layout, ChunkLayout)
    said = spoken(12, 40)
    laid = layout.lay_out(said, 5)
    assert len(laid.inputs) == len(laid.labels) == 1 + 12 + 1 + 40 + 1
    assert marked(layout, laid.inputs) == [
        *("bos", *numbered("t", 1, 5), *numbered("a", 1, 15), "t6+fill", *numbered("t", 7, 10), *numbered("a", 16, 30)),
        *("t11+fill", "t12", "end", *numbered("a", 31, 40), "eos"),
    ]
    labels = shown(layout, laid.labels)[1]
    assert labels[:5] == ["-"] * 5
    assert labels[5:21] == [*[str(i) for i in range(15)], "fill"]
    assert labels[21:25] == ["-"] * 4
    assert labels[25] == "15"  # the last token of a block predicts its first unit
    assert labels.count("fill") == 2
    assert labels.count("eos") == 1
    assert (laid.labels[:, 0] == IGNORE).all()
    # ceil((N + 1) / 5) blocks: where text fills its blocks, the last holds its end alone.
    assert marked(layout, layout.lay_out(spoken(10, 40), 5).inputs)[41:44] == ["end+fill", "a31", "a32"]
    # Otherwise sos, text, task_id, speech, eos: for half of the rows, and where there are few units for the text.
    straight = ["bos", *numbered("t", 1, 12), "end", *numbered("a", 1, 36), "eos"]
    assert marked(layout, layout.apply(spoken(12, 36)).inputs) == straight
    chunked = [layout.text_chunk(replace(said, id=str(i))) == 5 for i in range(400)]
    assert 0.42 < np.mean(chunked) < 0.58
    with pytest.raises(UserError, match="end_beside"):
        units_layout("glm-4-voice", fill=True)


def test_step_audio_worked_example() -> None:
    """L1 L2 S1 S2 S3 | L3 L4 S4 S5 S6 | ...: 16.67 and 25 Hz; what is left over is kept."""
    cards = CARDS | {
        "units": Tokenizer("units", "l", "r", 16000, 960, (1024,), "floor"),
        "codec": Tokenizer("codec", "s", "r", 24000, 960, (4096,), "ceil"),
    }
    layout = layout_of("step-audio", cards)
    said = replace(spoken(0, 5), codes=np.arange(7)[None])
    assert line(layout, layout.apply(said).inputs) == [
        *("bos", "0", "1", "0", "1", "2", "2", "3", "3", "4", "5", "4", "eos", "6", "eos")
    ]
    table = shown(layout, layout.apply(said).inputs)
    assert [name for name in table[1] if name != "-"] == ["0", "1", "2", "3", "4", "eos"]


def test_chunks_of_two_streams() -> None:
    assert alternate(3, 4, 2, 3) == [(0, 0, 2), (1, 0, 3), (0, 2, 3), (1, 3, 4)]
    assert alternate(1, 7, 2, 3) == [(0, 0, 1), (1, 0, 7)]
    assert alternate(7, 1, 2, 3) == [(0, 0, 2), (1, 0, 1), (0, 2, 7)]
    assert alternate(0, 0, 2, 3) == []


# CTC


def test_llama_omni_worked_example() -> None:
    """Two states, five copies each, read as 7 7 _ 9 9 _ 4 4 _ _: units 7 9 4."""
    blank = 30
    assert upsampled(2, 5).tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert collapse(np.array([7, 7, blank, 9, 9, blank, 4, 4, blank, blank]), blank).tolist() == [7, 9, 4]
    assert collapse(np.array([7, blank, 7, blank]), blank).tolist() == [7, 7]
    layout = layout_of("llama-omni", upsample=5)
    assert isinstance(layout, CtcLayout)
    laid = layout.apply(example([[0], [1]], [0.0, 0.2, 0.4], [7, 9, 4]))
    assert line(layout, laid.inputs) == ["bos", "0", "1", "eos"]
    assert laid.ctc_targets is not None
    assert laid.ctc_targets.tolist() == [7, 9, 4]
    assert layout.rows[1].special("blank") == blank


def test_ctc_targets_that_do_not_fit_are_counted() -> None:
    """Repeats need a blank between them: with one unit a frame, 5 + 3 copies for 1 1 1 2 2."""
    assert states_needed(np.array([1, 1, 1, 2, 2])) == 8
    assert states_needed(np.array([], dtype=np.int64)) == 0
    said = example([[0]], [0.0, 0.2], [1, 2], [3, 2])
    for upsample, fits in ((7, False), (8, True)):
        laid = layout_of("llama-omni", upsample=upsample, deduplicate=False).apply(said)
        assert (laid.ctc_targets is not None) is fits
        assert laid.dropped == (0 if fits else 5)
    assert layout_of("llama-omni", upsample=2).apply(said).dropped == 0


# Rows


def codec_cards(n: int, size: int = 1000, rate_hz: float = 12.5) -> dict[str, Tokenizer]:
    return {"codec": Tokenizer("codec", "c", "r", 24000, round(24000 / rate_hz), (size,) * n, "ceil")}


def codes_of(letters: str, n_frames: int) -> tuple[np.ndarray, dict[str, str]]:
    """Codes a0, a1, ..., b0, b1, ...: codebook k, frame t is 100 k + t; and their names."""
    codes = 100 * np.arange(len(letters))[:, None] + np.arange(n_frames)
    return codes, {str(100 * k + t): f"{letter}{t}" for k, letter in enumerate(letters) for t in range(n_frames)}


def named(table: list[list[str]], names: dict[str, str]) -> list[str]:
    """Rows, written as they are drawn."""
    return [" ".join(names.get(name, name) for name in row) for row in table]


def test_mini_omni_worked_example() -> None:
    layout = layout_of("mini-omni", codec_cards(7))
    codes, _ = codes_of("ABCDEFG", 2)
    said = Example([[0], [1], [2]], np.zeros(3), codes)
    laid = layout.apply(said)
    names = {str(100 * k + t): f"f{t}" for k in range(7) for t in range(2)} | {"pad": "Pa"}
    table = named(shown(layout, laid.inputs[1:], {0: "t0", 1: "t1", 2: "t2"}), names)
    assert table[0] == "t0 t1 t2 eot Pa Pa Pa Pa Pa Pa"
    assert table[1] == "Pa f0 f1 eoa Pa Pa Pa Pa Pa Pa"
    assert table[2] == "Pa Pa f0 f1 eoa Pa Pa Pa Pa Pa"
    assert table[3] == "Pa Pa Pa f0 f1 eoa Pa Pa Pa Pa"
    assert table[7] == "Pa Pa Pa Pa Pa Pa Pa f0 f1 eoa"
    assert (laid.labels[:-1] == laid.inputs[1:]).all()  # pads are predicted
    for k in range(7):  # undo: row[i][i + 1:]
        assert laid.inputs[1:][k + 1 : k + 3, 1 + k].tolist() == codes[k].tolist()


def test_kimi_audio_worked_example() -> None:
    layout = units_layout("kimi-audio")
    said = example([[0], [1], [2], [3]], [0.0, 0.1, 0.2, 0.3, 0.4], [40, 41, 42, 43])
    laid = layout.apply(said)
    names = {"40": "a0", "41": "a1", "42": "a2", "43": "a3", "pad": "B", "eot": "EOS", "eoa": "msg_end"}
    table = named(shown(layout, laid.inputs[1:], {i: f"t{i}" for i in range(4)}), names)
    assert table == ["t0 t1 t2 t3 EOS B B B B B B", "B B B B B B a0 a1 a2 a3 msg_end"]
    assert (laid.labels[:6, 1] == IGNORE).all()  # the first six are given
    assert (laid.labels[5:, 0] == IGNORE).all()
    assert (layout.options.text_weight, layout.options.speech_weight) == (7.0, 1.0)


def test_speechgpt2_worked_example() -> None:
    """Three codebooks, groups of three frames: five steps, drawn as the fifteen columns of the original."""
    layout = layout_of("speechgpt2", codec_cards(3))
    codes, names = codes_of("abc", 9)
    laid = layout.apply(Example([[0], [1]], np.zeros(2), codes))
    text, *rows = shown(layout, laid.inputs, {0: "t0", 1: "t1"})
    assert text == ["sosp", "t0", "t1", "empty", "eosp"]
    columns = [[rows[3 * k + g][s] for s in range(5) for g in range(3)] for k in range(3)]
    assert named(columns, names) == [
        "z z z a0 a1 a2 a3 a4 a5 a6 a7 a8 z z z",
        "z z z b0 b1 b2 b3 b4 b5 b6 b7 b8 z z z",
        "z z z c0 c1 c2 c3 c4 c5 c6 c7 c8 z z z",
    ]
    # A length that is no multiple of three, and a text that is longer than the speech: both whole.
    long = Example([[i] for i in range(6)], np.zeros(6), codes[:, :7])
    found = layout.undo(layout.apply(long).inputs)
    assert found.words == long.words
    np.testing.assert_array_equal(found.codes, codes[:, :7])


def test_csm_worked_example() -> None:
    layout = layout_of("csm", codec_cards(2))
    codes = np.array([[100, 101, 102, 103], [200, 201, 202, 203]])
    laid = layout.apply(Example([[0, 15]], np.zeros(1), codes))
    names = {"100": "a0", "101": "b0", "102": "c0", "103": "d0", "200": "a1", "201": "b1", "202": "c1", "203": "d1"}
    table = named(shown(layout, laid.inputs, {0: "hel", 15: "lo"}), names)
    assert table == ["bos [0] hel lo eos - - - - -", "- - - - - a0 b0 c0 d0 eos", "- - - - - a1 b1 c1 d1 eos"]
    assert (laid.labels[:, 0] == IGNORE).all()
    assert laid.labels[4:9, 1].tolist() == [100, 101, 102, 103, 1000]
    assert laid.modality.tolist() == [TEXT] * 5 + [SPEECH] * 5


def test_csm_turns_have_their_speakers_and_ends() -> None:
    layout = layout_of("csm", codec_cards(2))
    turns = [
        Example([[w]], np.zeros(1), np.full((2, 1 + w), w), role=role)
        for w, role in enumerate(["user", "assistant", "user"])
    ]
    whole = Example([[0], [1], [2]], np.zeros(3), np.concatenate([t.codes for t in turns], axis=1), turns=turns)
    text = shown(layout, layout.apply(whole).inputs)[0]
    assert [name for name in text if name.startswith("[")] == ["[0]", "[1]", "[0]"]
    assert shown(layout, layout.apply(whole).inputs)[2].count("eos") == 3
    turns[1].role, turns[2].role = "b", "c"
    with pytest.raises(ValueError, match="3 speakers"):
        layout.apply(whole)


def test_moshi_worked_example() -> None:
    """Two speakers, two of the codebooks of each: columns s0 to s6."""
    layout = layout_of("moshi", codec_cards(2))
    codes = np.stack([np.arange(7) + at for at in (100, 200, 300, 400)])
    hello = Example([[0, 15], [1]], np.array([0.08, 0.48]), codes)
    laid = layout.apply(hello)
    names = {str(at + t): f"{row}{t}{mark}" for at, row, mark in ((100, "S", ""), (200, "A", "")) for t in range(7)}
    names |= {str(at + t): f"{row}{t}'" for at, row in ((300, "s"), (400, "a")) for t in range(7)}
    names |= {"pad": "I"}
    table = named(shown(layout, laid.inputs[:7], {0: "hel", 15: "lo"}), names)
    assert table[0].replace("I", "P").replace("bos", "I").replace("epad", "E") == "I E hel lo P P E"
    assert table[1:] == [
        "I S0 S1 S2 S3 S4 S5",
        "I I A0 A1 A2 A3 A4",
        "I s0' s1' s2' s3' s4' s5'",
        "I I a0' a1' a2' a3' a4'",
    ]
    assert (laid.labels[:, 3:] == IGNORE).all()  # the other speaker is heard only
    assert (laid.labels[:, 1:3] != IGNORE).sum() == 14  # every code of the main speaker, the delayed row's last one too
    assert set(laid.weights[laid.labels[:, 1] != IGNORE, 1]) == {100.0}


def test_moshi_learns_when_to_be_silent() -> None:
    layout = layout_of("moshi", codec_cards(1))
    codes = np.array([[NOTHING, NOTHING, 5, 6], [7, 8, NOTHING, NOTHING]])
    laid = layout.apply(Example([], np.zeros(0), codes))
    assert shown(layout, laid.labels)[1] == ["silence", "silence", "5", "6", "-", "-"]
    assert laid.weights[:4, 1].tolist() == [50.0, 50.0, 100.0, 100.0]  # 100, and half of it for what is like PAD
    np.testing.assert_array_equal(layout.undo(laid.inputs).codes, codes)


# Orders of codebooks


def order(name: str, **options: object) -> list[str]:
    codes, names = codes_of("abcd", 4)
    layout = layout_of(name, codec_cards(4), **options)
    laid = layout.apply(Example([], np.zeros(0), codes))
    np.testing.assert_array_equal(layout.undo(laid.inputs).codes, codes)
    return named(shown(layout, laid.inputs)[1:], names | {"pad": "S"})


def test_delay_orders_worked_examples() -> None:
    """MusicGen's delays and Moshi's, with every code of the tails."""
    assert order("delay") == [
        "S a0 a1 a2 a3 S S S",
        "S S b0 b1 b2 b3 S S",
        "S S S c0 c1 c2 c3 S",
        "S S S S d0 d1 d2 d3",
    ]
    assert order("acoustic-delay") == ["S a0 a1 a2 a3 S", "S S b0 b1 b2 b3", "S S c0 c1 c2 c3", "S S d0 d1 d2 d3"]
    assert order("parallel") == [f"S {x}0 {x}1 {x}2 {x}3 S" for x in "abcd"]
    assert order("delay", delays=(0, 2, 1, 0))[1:3] == ["S S S b0 b1 b2 b3", "S S c0 c1 c2 c3 S"]
    with pytest.raises(UserError, match="4 numbers"):
        order("delay", delays=(0, 1))


def test_flat_orders_worked_examples() -> None:
    def flat(name: str) -> list[str]:
        rows = [row.split()[1:] for row in order(name)]
        return [next(name for name in column if name != "-") for column in zip(*rows, strict=True)]

    assert flat("flatten") == [*[f"{x}{t}" for t in range(4) for x in "abcd"], "S"]
    a, *rest = [[f"{x}{t}" for t in range(4)] for x in "abcd"]
    assert flat("coarse-first") == [*a, "S", *[name for row in rest for name in row]]  # a0 a1 a2 a3 | b0..b3 | ...
    assert flat("audiolm-fine") == [
        *[f"{x}{t}" for t in range(4) for x in "ab"],
        "S",
        *[f"{x}{t}" for t in range(4) for x in "cd"],
    ]


def test_steps_for_ten_seconds_of_eight_codebooks() -> None:
    """The reference's table: flatten 1000, delay 133, parallel 126, acoustic delay 127; here with the start, and the end."""
    codes = np.zeros((8, 125), dtype=np.int64)
    n = {
        name: len(layout_of(name, codec_cards(8)).apply(Example([], np.zeros(0), codes)).inputs)
        for name in ("flatten", "delay", "parallel", "acoustic-delay", "coarse-first")
    }
    assert n == {"flatten": 1002, "delay": 133, "parallel": 127, "acoustic-delay": 127, "coarse-first": 1002}


def test_vall_e_says_a_text_and_audiolm_gives_units_a_voice() -> None:
    said = replace(spoken(3, 2), codes=codes_of("ab", 2)[0])
    valle = layout_of("vall-e", codec_cards(2))
    assert line(valle, valle.apply(said).inputs) == ["bos", "0", "1", "2", "[Speech]", "0", "1", "pad", "100", "101"]
    laid = valle.apply(said)
    assert (laid.labels[:4] == IGNORE).all()
    coarse = layout_of("audiolm-coarse", CARDS | codec_cards(2), coarse=2)
    laid = coarse.apply(said)
    assert line(coarse, laid.inputs) == ["bos", "0", "1", "end", "0", "100", "1", "101", "eos"]
    assert (laid.labels[:3] == IGNORE).all()


# TASTE


def test_taste_reconciles_two_vocabularies() -> None:
    """`I unbelievably like cats`: A | B -1 -1 | C | D -1 on I | unbel iev ably | like | c ats, one word later."""
    layout = layout_of("taste", fill_forward=False)
    words = [[0], [1, 15, 16], [2], [3, 17]]
    codes = np.array([[0, 0], [1, 1], [2, 2], [3, 3]])
    laid = layout.apply(Example(words, np.zeros(4), codes))
    assert shown(layout, laid.inputs)[1] == ["-", "pad", "0", "-", "-", "1", "2", "-", "3"]
    assert shown(layout, laid.labels)[1] == ["-", "0", "-", "-", "1", "2", "-", "3", "-"]


def test_weights_of_the_published_systems() -> None:
    """Moshi 100 to 1 and 0.5 on PAD; TASLM 0.5 and 0.5; Kimi-Audio 7 to 1; CSM and CosyVoice learn no text."""
    assert layout_of("moshi").options.model_dump()["first_codebook_weight"] == 100.0
    assert layout_of("moshi").options.model_dump()["pad_weight"] == 0.5
    weights = {
        n: (layout_of(n).options.text_weight, layout_of(n).options.speech_weight)
        for n in ("taste", "kimi-audio", "csm")
    }
    assert weights == {"taste": (0.5, 0.5), "kimi-audio": (7.0, 1.0), "csm": (0.0, 1.0)}
    said = spoken(12, 60)
    assert (layout_of("cosyvoice2", CARDS | {"units": UNITS_25_HZ}).apply(said).labels[:, 0] == IGNORE).all()
    assert layout_of("csm").rows[0].size == V
