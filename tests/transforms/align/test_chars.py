"""The head of letters: its loss against brute force, its fit on a few real clips, its file."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import Utterance, Word
from tests.conftest import Clip
from transforms.align.chars import KIND, CharAligner
from transforms.align.fit_chars import Example, FitCharsOptions, fit_chars, hear, occupancy, spread
from transforms.align.head import Head, WrongHead
from transforms.align.letters import place, spell
from transforms.align.stage import AlignOptions
from transforms.weights import locate

ALPHABET = {letter: 1 + i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz'")}


def spelled(word: str) -> str:
    return "".join("-abcdefghijklmnopqrstuvwxyz'"[i] for i in spell(word, ALPHABET))


@pytest.mark.parametrize(
    ("token", "letters"),
    [
        ("don't", "don't"), ("straße", "strasse"), ("mañana", "manana"), ("café", "cafe"), ("привет", "privet"),
        ("東京", "dongjing"), ("🎤", ""), ("", ""),
    ],
)  # fmt: skip
def test_any_script_is_spelled(token: str, letters: str) -> None:
    assert spelled(token) == letters


def test_letters_that_the_vocabulary_has_are_not_romanised() -> None:
    assert spell("äö", {"ä": 5, "o": 6}) == [5, 6]
    assert spell("ÄO", {"A": 1, "O": 2}) == [1, 2]


def made(n_frames: int, letters: list[int]) -> Example:
    nothing = np.zeros((n_frames, 1), np.float16)
    return Example(nothing, nothing, False, [(letters, 0.0, 1.0)], np.zeros(n_frames, np.int64))


@given(st.lists(st.integers(1, 2), min_size=1, max_size=3), st.integers(0, 2), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_occupancy_is_what_all_ways_together_say(letters: list[int], spare: int, seed: int) -> None:
    """Of scores that are not normalised; against the sum over every way that spells the letters."""
    n_frames = len(letters) + sum(a == b for a, b in itertools.pairwise(letters)) + spare
    scores = np.random.default_rng(seed).normal(0, 2, (n_frames, 3)).astype(np.float32)
    expected, total = np.zeros((n_frames, 3)), 0.0
    for way in itertools.product(range(3), repeat=n_frames):
        if [k for k, _ in itertools.groupby(way) if k] == letters:
            weight = np.exp(scores[np.arange(n_frames), way].astype(np.float64).sum())
            expected[np.arange(n_frames), way] += weight
            total += weight
    padded = torch.nn.functional.pad(torch.from_numpy(scores), (0, 0, 0, 2))[None]
    found = occupancy(padded, torch.tensor([n_frames]), [made(n_frames, letters)])[0].numpy()
    np.testing.assert_allclose(found[:n_frames], expected / total, atol=2e-4)
    assert not found[n_frames:].any()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60), st.integers(0, 60)), max_size=5), st.integers(0, 80))
def test_letters_lie_evenly_in_their_words(words: list[tuple[int, int, int]], n_frames: int) -> None:
    spans, at = [], 0
    for i, (count, gap, length) in enumerate(words):
        spans.append(([i + 1] * count, (at + gap) / 100, (at + gap + length) / 100))
        at += gap + length
    labels = spread(spans, n_frames)
    assert len(labels) == n_frames
    for i, (count, (_, start_s, end_s)) in enumerate(zip((w[0] for w in words), spans, strict=True)):
        inside = max(0, min(round(end_s * 100), n_frames) - round(start_s * 100))
        assert (labels == i + 1).sum() in ((inside, inside + 1) if count else (0,))
    assert spread([([1, 2], 0.0, 0.04)], 5).tolist() == [1, 1, 2, 2, 0]


def test_a_token_without_letters_takes_what_its_neighbours_leave() -> None:
    said = [0, 1, 1, 2, 0, 0, 3, 3, 3, 0, 2, 1, 0]
    log_probs = np.log(np.eye(4)[said] * 0.96 + 0.01).astype(np.float32)
    first, star, last = place(log_probs, log_probs, [[1, 2], [], [2, 1]], 0, 0.01)
    assert first is not None
    assert star is not None
    assert last is not None
    assert (first.start_s, first.end_s) == (0.01, 0.04)
    assert (star.start_s, star.end_s, star.how) == (0.06, 0.09, "wildcard")
    assert (last.start_s, last.end_s) == (0.10, 0.12)
    assert place(log_probs, log_probs, [[1] * 20], 0, 0.01) == [None]


def utterances(speech: list[Clip]) -> list[Utterance]:
    """Words spread over the clip by their letters, as a corpus without an aligner would have them."""
    found = []
    for i, clip in enumerate(speech):
        words, length_s = clip.text.lower().split(), len(clip.samples) / 16000
        edges = np.cumsum([0, *map(len, words)]) / sum(map(len, words)) * length_s
        utterance = Utterance(str(clip.path), -1, 0, len(clip.samples), clip.samples, 16000, text=" ".join(words))
        utterance.words = [Word(w, a, b, 0.0, "interpolated") for w, a, b in zip(words, edges, edges[1:], strict=False)]
        utterance.given = {"speaker": str(i % 2)}
        found.append(utterance)
    return found


def test_a_fit_learns_and_gives_the_same_bytes(speech: list[Clip], tmp_path: Path) -> None:
    short = sorted(utterances(speech), key=lambda u: u.end)[:4]
    options = FitCharsOptions(
        path=tmp_path / "head.safetensors", data="four clips, CC BY 4.0", width=16, epochs=6, batch_frames=600,
        heldout_every=2, spread_steps=3,
    )  # fmt: skip
    said: list[str] = []
    fitted = fit_chars(short, options, said.append)
    losses = [float(line.rsplit(" ", 1)[1]) for line in said if line.startswith("epoch")]
    assert losses[-1] < losses[0]
    assert (fitted.n_utterances, fitted.hours > 0) == (2, True)
    again = options.model_copy(update={"path": tmp_path / "again.safetensors"})
    fit_chars(short, again, said.append)
    assert again.path.read_bytes() == options.path.read_bytes()
    head = Head.load(options.path, AlignOptions().encoder, KIND)
    assert head.log_posteriors(speech[0].samples[:32000]).shape == (200, 28)
    samples, words = speech[0].samples, ["Zxqv", "Printing,", "in", "1455", "—", "the", "£13.60", "🎤", "שלום"]
    found = CharAligner(AlignOptions(backend="chars", model=str(options.path))).align(samples, words, "en")
    assert [w.text for w in found] == words
    edges = [at for w in found for at in (w.start_s, w.end_s)]
    assert edges == sorted(edges)
    assert edges[-1] <= len(samples) / 16000
    with pytest.raises(WrongHead, match="a head of letters, and one of phones is asked for"):
        Head.load(options.path, AlignOptions().encoder)
    with pytest.raises(WrongHead, match="a head of phones, and one of letters is asked for"):
        Head.load(locate("antiphon-phones").path, AlignOptions().encoder, KIND)


def test_what_cannot_be_fitted_on_is_left_out_and_nothing_at_all_is_said(speech: list[Clip], tmp_path: Path) -> None:
    options = FitCharsOptions(path=tmp_path / "head.safetensors", data="nothing")
    silent, long = utterances(speech)[:2]
    silent.words = [Word("🎤", 0.0, 1.0, 0.0, "wildcard")]
    long.words = [Word("a" * 6000, 0.0, 1.0, 0.0, "wildcard")]
    assert hear([silent, long], options, lambda _: None) == []
    with pytest.raises(ValueError, match="none of 0 utterances"):
        fit_chars([], options, lambda _: None)
