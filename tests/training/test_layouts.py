"""Layouts: the published worked examples, and what must hold for any record."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import Tokenizer
from schemas.errors import UserError
from training.layouts import (
    CodecLayout,
    CodecLayoutOptions,
    Example,
    Layout,
    TasteLayout,
    TasteLayoutOptions,
    Vocabulary,
    make,
)
from training.layouts.base import IGNORE, NOTHING
from training.layouts.codec import text_frames

STARTS, V = 12, 20
VOCABULARY = Vocabulary(V, np.arange(V) < STARTS, (np.arange(V) >= STARTS) & (np.arange(V) < V - 1))
TASTE_SIZES = (7, 5)


def taste(**options: object) -> TasteLayout:
    card = Tokenizer("taste", "t", "r", 16000, 0, TASTE_SIZES, "word")
    return TasteLayout(TasteLayoutOptions(**options), VOCABULARY, {card.kind: card})


def codec(sizes: tuple[int, ...] = (50, 50), rate_hz: float = 12.5, **options: object) -> CodecLayout:
    card = Tokenizer("codec", "t", "r", 24000, round(24000 / rate_hz), sizes, "ceil")
    return CodecLayout(CodecLayoutOptions(**options), VOCABULARY, {card.kind: card})


words = st.lists(
    st.tuples(st.integers(0, STARTS - 1), st.lists(st.integers(STARTS, V - 2), max_size=3)).map(
        lambda w: [w[0], *w[1]]
    ),
    max_size=6,
)


@st.composite
def taste_examples(draw: st.DrawFn) -> Example:
    said = draw(words)
    rows = [[draw(st.integers(0, size - 1)) for size in TASTE_SIZES] for _ in said]
    return Example(said, np.arange(len(said)) * 0.3, np.array(rows, dtype=np.int64).reshape(len(said), 2), "row")


@st.composite
def codec_examples(draw: st.DrawFn, n_codebooks: int = 3) -> Example:
    said = draw(words)
    n_frames = draw(st.integers(0, 20))
    # Up to 3 s: beyond the end of 20 frames, and, at three tokens a word, faster than one token a frame.
    starts_s = sorted(draw(st.lists(st.floats(0, 3), min_size=len(said), max_size=len(said))))
    codes = np.array([[draw(st.integers(0, 9)) for _ in range(n_frames)] for _ in range(n_codebooks)], dtype=np.int64)
    return Example(said, np.array(starts_s), codes.reshape(n_codebooks, n_frames), "row")


@st.composite
def codec_layouts(draw: st.DrawFn) -> CodecLayout:
    rising = st.lists(st.integers(0, 4), min_size=2, max_size=2).map(lambda d: (0, *sorted(d)))
    return codec((10, 10, 10), delays=draw(st.none() | rising), text_ahead_s=draw(st.floats(-1, 1)))


def check_laws(layout: Layout, example: Example) -> None:
    """What holds for every layout: it can be undone, leaks nothing, and weighs what it learns."""
    laid = layout.apply(example)
    said, codes, _ = layout.undo(laid.inputs)
    assert said == example.words
    np.testing.assert_array_equal(codes, example.codes)
    # Every label is the id that the same row has at the next position, never of a position that is already an input.
    learnt = laid.labels != IGNORE
    assert not learnt[-1].any()
    np.testing.assert_array_equal(laid.labels[:-1][learnt[:-1]], laid.inputs[1:][learnt[:-1]])
    # Each token and each code is learnt exactly once, and specials are outside every codebook.
    for r, row in enumerate(layout.rows):
        tokens = laid.labels[:, r][learnt[:, r]]
        assert (laid.inputs[:, r] < row.n_ids).all()
        n = sum(map(len, example.words)) if r == 0 else example.codes.shape[1 if layout.name == "codec" else 0]
        assert (tokens < row.size).sum() == n
    assert (laid.weights[~learnt] == 0).all()
    assert laid.inputs.dtype == laid.labels.dtype == np.int64
    assert laid.weights.dtype == np.float32
    assert laid.inputs[0, 0] == layout.rows[0].special("bos")


@settings(deadline=None)
@given(taste_examples(), st.booleans(), st.booleans())
def test_taste_laws(example: Example, fill_forward: bool, learn_end: bool) -> None:
    check_laws(taste(fill_forward=fill_forward, learn_end=learn_end), example)


@settings(deadline=None)
@given(codec_examples(), codec_layouts())
def test_codec_laws(example: Example, layout: CodecLayout) -> None:
    check_laws(layout, example)


@pytest.mark.parametrize("layout", [taste(), codec((50, 50)), codec((50, 50), delays=(0, 3), text_ahead_s=0.5)])
def test_nothing_is_given_away_before_it_is_learnt(layout: Layout) -> None:
    """With codes that occur once, no code stands in the input of the position that learns it, or before."""
    said, starts_s = [[w] for w in range(5)], np.arange(5) * 0.2
    codes = np.arange(5) if layout.name == "taste" else np.arange(26).reshape(2, 13)
    example = Example(said, starts_s, np.stack([codes, codes], axis=1) % [7, 5] if layout.name == "taste" else codes)
    laid = layout.apply(example)
    for position, row in np.argwhere((laid.labels != IGNORE) & (laid.labels < [r.size for r in layout.rows])):
        assert laid.labels[position, row] not in laid.inputs[: position + 1, row]


@pytest.mark.parametrize("fill_forward", [True, False])
def test_taste_worked_example(fill_forward: bool) -> None:
    """`I like cats`, tokens I | like | c ats, codes C0 C1 C2 (TASLM's delay of one word)."""
    i, like, c, ats = 1, 2, 3, 15
    layout = taste(fill_forward=fill_forward, learn_end=False)
    laid = layout.apply(Example([[i], [like], [c, ats]], np.zeros(3), np.array([[0, 4], [1, 3], [2, 2]])))
    bos, pad_t = (layout.rows[0].special(name) for name in ("bos", "pad"))
    pad_a = layout.rows[1].special("pad")
    assert laid.inputs[:, 0].tolist() == [bos, i, like, c, ats, pad_t]
    assert laid.inputs[:, 1].tolist() == [NOTHING, pad_a, 0, 1, 1 if fill_forward else NOTHING, 2]
    assert laid.labels[:, 0].tolist() == [i, like, c, ats, IGNORE, IGNORE]
    assert laid.labels[:, 1].tolist() == [IGNORE, 0, 1, IGNORE, 2, IGNORE]
    assert laid.labels[:, 2].tolist() == [IGNORE, 4, 3, IGNORE, 2, IGNORE]


def test_taste_one_word_and_none() -> None:
    layout = taste()
    one = layout.apply(Example([[5, 16]], np.zeros(1), np.array([[6, 4]])))
    pad_t, pad_a = layout.rows[0].special("pad"), layout.rows[1].special("pad")
    assert one.inputs[:, 1].tolist() == [NOTHING, pad_a, pad_a, 6]
    assert one.labels.T.tolist() == [[5, 16, pad_t, IGNORE], [IGNORE, IGNORE, 6, IGNORE], [IGNORE, IGNORE, 4, IGNORE]]
    none = layout.apply(Example([], np.zeros(0), layout.no_codes()))
    assert none.labels[:, 0].tolist() == [pad_t, IGNORE]
    assert (none.labels[:, 1:] == IGNORE).all()


def test_taste_refuses_words_and_codes_that_do_not_match() -> None:
    with pytest.raises(ValueError, match="row x: 2 words but 1 tuples"):
        taste().apply(Example([[1], [2]], np.zeros(2), np.zeros((1, 2), dtype=np.int64), "x"))


HELLO = Example([[1, 12], [2], [3], [4]], np.array([0.10, 0.70, 0.88, 1.00]), np.zeros((2, 16), dtype=np.int64))
P, E = V, V + 1


def test_text_row_worked_example() -> None:
    """hello how are you at 12.5 Hz, as Moshi's interleaver lays it out; and with text 0.16 s ahead."""
    assert codec().text_row(HELLO, 16)[0].tolist() == [E, 1, 12, P, P, P, P, E, 2, P, E, 3, 4, P, P, P]
    ahead = codec(text_ahead_s=0.16).text_row(HELLO, 16)[0]
    assert ahead.tolist() == [1, 12, P, P, P, E, 2, P, E, 3, 4, P, P, P, P, P]


def test_fast_speech_is_shifted_and_counted() -> None:
    """A word of four tokens at 0.16 s, the next at 0.32 s: Moshi loses two of them, here the next word waits."""
    example = Example([[5, 13, 14, 15], [6]], np.array([0.16, 0.32]), np.zeros((2, 8), dtype=np.int64))
    row, shifted = codec().text_row(example, 8)
    assert row.tolist() == [P, E, 5, 13, 14, 15, 6, P]
    assert shifted == 1
    assert codec().apply(example).shifted == 1


def test_text_beyond_the_sound_lengthens_the_sequence() -> None:
    example = Example([[5], [6, 13]], np.array([0.08, 9.0]), np.array([[1, 2, 3], [4, 5, 6]]))
    laid = codec().apply(example)
    eos, bos = codec().rows[0].special("eos"), codec().rows[0].special("bos")
    assert laid.inputs[:, 0].tolist() == [bos, E, 5, E, 6, 13, eos]
    assert laid.inputs[:, 1].tolist() == [50, 1, 2, 3, 50, 50, 50]


def test_delayed_rows_keep_their_tails() -> None:
    """Delays 0 1 2 3 and 0 1 1 1 over four frames, as MusicGen's patterns show them, with every code kept."""
    codes = np.arange(16).reshape(4, 4)
    silent = Example([], np.zeros(0), codes)
    s = 20
    rows = codec((20,) * 4, delays=(0, 1, 2, 3)).apply(silent).inputs[:, 1:].T.tolist()
    assert rows == [
        [s, 0, 1, 2, 3, s, s, s],
        [s, s, 4, 5, 6, 7, s, s],
        [s, s, s, 8, 9, 10, 11, s],
        [s, s, s, s, 12, 13, 14, 15],
    ]
    rows = codec((20,) * 4).apply(silent).inputs[:, 1:].T.tolist()
    assert rows == [[s, 0, 1, 2, 3, s], *([s, s, *codes[k].tolist()] for k in (1, 2, 3))]


def test_weights() -> None:
    """Moshi's: 100 on the first codebook, 0.5 on PAD and EPAD, 1 elsewhere."""
    laid = codec(first_codebook_weight=100.0).apply(HELLO)
    text = laid.labels[:, 0]
    assert set(laid.weights[(text == P) | (text == E), 0]) == {0.5}
    assert set(laid.weights[(text != IGNORE) & (text < V), 0]) == {1.0}
    assert set(laid.weights[laid.labels[:, 1] != IGNORE, 1]) == {100.0}
    assert set(laid.weights[laid.labels[:, 2] != IGNORE, 2]) == {1.0}


def test_fewer_codebooks() -> None:
    layout = codec((50, 50, 50), codebooks=2)
    example = Example([[1]], np.zeros(1), np.arange(12).reshape(3, 4))
    assert len(layout.rows) == 3
    np.testing.assert_array_equal(layout.undo(layout.apply(example).inputs).codes, example.codes[:2])


@pytest.mark.parametrize("delays", [(0, 1), (0, 2, 1), (1, 1, 1)])
def test_bad_delays_are_refused(delays: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="from 0 upwards"):
        codec((8, 8, 8), delays=delays)


def test_float32_times_stay_in_their_frame() -> None:
    """0.16 s is frame 2 at 12.5 Hz, also when it comes back from Parquet as float32."""
    frames, _ = text_frames([[1]], np.array([np.float32(0.16)], dtype=np.float64), 12.5, 10)
    assert frames == [2]


def test_a_corpus_without_the_stream_is_refused_with_the_stage_to_run() -> None:
    with pytest.raises(UserError, match=r"needs the taste stream, and the corpus has codec: .*section `taste`"):
        make(TasteLayoutOptions(), VOCABULARY, {"codec": codec().card})
    with pytest.raises(ValueError, match="row abc has no taste_codes"):
        taste().example({"id": "abc", "taste_codes": None, "words": [], "duration_s": 1.0}, lambda words: [])


def sample(layout: Layout, example: Example, seed: int) -> np.ndarray:
    """Inputs `[S, R]` of a model that takes any allowed id, specials as often as tokens."""
    random = np.random.default_rng(seed)

    def draw(row: int, allowed: np.ndarray) -> int:
        assert len(allowed) == layout.rows[row].n_ids
        ids = np.flatnonzero(allowed)
        special = ids[ids >= layout.rows[row].size]
        return int(random.choice(special if len(special) and random.random() < 0.5 else ids))

    prompt = layout.prompt(example, 2.0)
    columns = []
    while (column := prompt.next(draw)) is not None:
        columns.append(column)
    return np.stack(columns)


@settings(deadline=None)
@given(words, st.integers(0, 99))
def test_what_codec_samples_is_what_it_could_lay_out(given_words: list[list[int]], seed: int) -> None:
    """The prompt's words first and whole, then whole words, each where EPAD, another word or the start lets it begin."""
    layout = codec((10, 10), prompt_max_gap_s=0.16)
    prompt = Example(given_words, np.full(len(given_words), np.inf), layout.no_codes())
    inputs = sample(layout, prompt, seed)
    said, codes, _ = layout.undo(inputs)
    if len(said) <= len(given_words):  # the end of the time may cut the last one
        assert [token for word in given_words for token in word][: sum(map(len, said))] == [t for w in said for t in w]
    else:
        assert said[: len(given_words)] == given_words
    text = inputs[1 : 1 + codes.shape[1], 0]
    assert V - 1 not in text  # it is in no word
    tokens = np.flatnonzero(text < V)
    begins = tokens[text[tokens] < STARTS]
    laid, _ = layout.text_row(Example(said, (begins + 0.5) / layout.card.rate_hz, codes), len(text))
    if len(text) and text[-1] == E:
        text = text[:-1]  # announced, and then the time was up
    np.testing.assert_array_equal(laid[: len(text)], text)


@settings(deadline=None)
@given(taste_examples(), st.integers(0, 99), st.booleans())
def test_what_taste_samples_is_what_it_could_lay_out(example: Example, seed: int, learn_end: bool) -> None:
    layout = taste(learn_end=learn_end)
    inputs = sample(layout, example, seed)
    said, codes, _ = layout.undo(inputs)
    assert said[: len(example.words)] == example.words
    np.testing.assert_array_equal(codes[: len(example.codes)], example.codes)
    assert all(word[0] < STARTS and V - 1 not in word for word in said)
    laid = layout.apply(Example(said, np.zeros(len(said)), codes))
    np.testing.assert_array_equal(laid.inputs, inputs)
