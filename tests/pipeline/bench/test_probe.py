"""The probes: they learn what the tokens carry, and nothing where the tokens carry nothing."""

import numpy as np
import pytest

from pipeline.bench.phones import UNKNOWN
from pipeline.bench.probe import ProbeReport, probe_clips, probe_in_time, streams
from pipeline.bench.subjects import Tokens

N_CLIPS, N_STEPS, N_CLASSES = 8, 200, 5


def clip_tokens(codes: np.ndarray, step_s: float = 0.02) -> Tokens:
    starts = np.arange(codes.shape[1]) * step_s
    return Tokens(codes, starts, starts + step_s)


@pytest.fixture(scope="module")
def spoken() -> tuple[list[np.ndarray], list[Tokens], list[Tokens]]:
    """Labels in stretches; tokens whose second codebook carries them; tokens that carry nothing."""
    random = np.random.default_rng(0)
    labels = [random.integers(0, N_CLASSES, N_STEPS // 10).repeat(10) for _ in range(N_CLIPS)]
    # Three entries stand for each label, so there is something to learn.
    telling = [np.stack([random.integers(0, 16, N_STEPS), 3 * x + random.integers(0, 3, N_STEPS)]) for x in labels]
    dumb = [random.integers(0, 16, (2, N_STEPS)) for _ in labels]
    return labels, [clip_tokens(x) for x in telling], [clip_tokens(x) for x in dumb]


def laid(tokens: list[Tokens]) -> object:
    return streams(tokens, [N_STEPS * 0.02] * len(tokens), (16, 16))


def test_a_label_that_the_tokens_carry_is_learnt_and_its_codebook_attended_to(spoken) -> None:
    labels, telling, _ = spoken
    report = probe_in_time(laid(telling), labels, [f"s{i % 4}" for i in range(N_CLIPS)], n_steps=40)
    assert isinstance(report, ProbeReport)
    assert report.accuracy > 0.95
    assert (report.classes, report.items) == (N_CLASSES, N_CLIPS * N_STEPS)
    assert report.attention[1] > 0.8
    assert sum(report.attention) == pytest.approx(1.0)


def test_a_label_that_the_tokens_do_not_carry_stays_at_chance_and_unknown_steps_do_not_count(spoken) -> None:
    labels, _, dumb = spoken
    known = [np.where(np.arange(N_STEPS) < 50, UNKNOWN, x) for x in labels]
    report = probe_in_time(laid(dumb), known, [""] * N_CLIPS, n_steps=40)
    assert isinstance(report, ProbeReport)
    assert report.items == N_CLIPS * (N_STEPS - 50)
    assert abs(report.accuracy - report.chance) < 0.1


def test_the_same_tokens_give_the_same_report(spoken) -> None:
    labels, telling, _ = spoken
    first, again = (probe_in_time(laid(telling), labels, [""] * N_CLIPS, n_steps=5) for _ in range(2))
    assert first == again


def test_speakers_of_whole_clips() -> None:
    """Each speaker has favourite entries; the order says nothing."""
    random = np.random.default_rng(1)
    speakers = [f"reader {i % 3}" for i in range(12)]
    told = [clip_tokens(random.integers(5 * (i % 3), 5 * (i % 3) + 8, (1, N_STEPS))) for i in range(12)]
    laid_out = streams(told, [N_STEPS * 0.02] * 12, (20,))
    report = probe_clips(laid_out, speakers, n_steps=60)
    assert isinstance(report, ProbeReport)
    assert report.accuracy > 0.9
    assert report.items == 12 * 2
    shuffled = probe_clips(laid_out, [speakers[i // 4] for i in range(12)], n_steps=60)
    assert isinstance(shuffled, ProbeReport)
    assert shuffled.accuracy < 0.7


def test_clips_shorter_than_a_piece_are_used_and_labels_of_one_clip_are_not() -> None:
    random = np.random.default_rng(2)
    told = [clip_tokens(random.integers(0, 4, (1, n))) for n in (30, 30, 250, 30, 30)]
    laid_out = streams(told, [0.6, 0.6, 5.0, 0.6, 0.6], (4,))
    report = probe_clips(laid_out, ["a", "a", "b", "b", "c"], n_steps=2)
    assert isinstance(report, ProbeReport)
    assert (report.classes, report.items) == (2, 1 + 1 + 2 + 1)
    assert probe_clips(laid_out, ["a", "b", "", "", ""]) == "0 of 2 labels have more than one clip, and two are needed"


def test_tokens_are_laid_on_a_grid_with_an_entry_of_its_own_for_none() -> None:
    words = Tokens(np.array([[7, 3], [1, 2]]), np.array([0.02, 0.10]), np.array([0.06, 0.12]))
    grid = streams([words], [0.16], (8, 4)).clips[0]
    none = [8, 4]
    assert grid.tolist() == [none, [7, 1], [7, 1], none, none, [3, 2], none, none]


def test_features_that_nobody_quantised_are_probed_too(spoken) -> None:
    labels, _, _ = spoken
    random = np.random.default_rng(3)
    shown = [np.eye(N_CLASSES, dtype=np.float32)[x].T + random.normal(0, 0.1, (N_CLASSES, N_STEPS)) for x in labels]
    laid_out = streams([clip_tokens(x.astype(np.float32)) for x in shown], [N_STEPS * 0.02] * N_CLIPS, ())
    report = probe_in_time(laid_out, labels, [""] * N_CLIPS, n_steps=40)
    assert isinstance(report, ProbeReport)
    assert report.accuracy > 0.95
    assert "clips, and 4 are needed" in probe_in_time(laid_out, labels[:2], ["", ""])
