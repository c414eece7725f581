"""Sampling from a hybrid LM: a prompt of text, of real speech, or of both, and what the model makes of it."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from schemas.errors import UserError
from training.checkpoint import Checkpoint
from training.filling import check_filler, fill
from training.layouts import Example
from training.layouts.base import Prompt
from training.model import HybridLM


@dataclass(frozen=True)
class Sampling:
    """How ids are drawn. Temperature 0 takes the likeliest; `top_k` 0 takes any."""

    temperature: float = 0.8
    text_top_k: int = 50
    speech_top_k: int = 50
    seed: int = 0


@dataclass(frozen=True)
class Generation:
    """What was said: its words, its codes (`[K, T]`, or `[W, R]` for word-aligned layouts), its units `[U]`, in layouts that have
    them, the raw inputs `[S, R]`, and which of those the model drew, bool `[S, R]`: the others were given, or follow from it. Of
    a layout with continuous latents, these, float32 `[T, d]` as the codec's decoder takes them.
    """

    words: list[str]
    codes: np.ndarray
    inputs: np.ndarray
    units: np.ndarray
    drawn: np.ndarray
    latents: np.ndarray

    @property
    def text(self) -> str:
        return " ".join(self.words)


class _Sampler:
    """Runs the model over positions as they come, and draws ids for the next one. Runs it only when something is to be drawn.

    `columns` are the positions so far, `[R]` each, and `marks`, bool `[R]`, which of their ids were drawn.
    """

    def __init__(self, model: HybridLM, sampling: Sampling, prompt: Prompt) -> None:
        self.model = model
        self.sampling = sampling
        self.prompt = prompt
        self.device = model.text_special.weight.device
        self.random = torch.Generator().manual_seed(sampling.seed)
        self.columns: list[np.ndarray] = []
        self.latents: list[np.ndarray] = []  # [latent_dim] each, NaN where there is none
        self.n_run = 0
        self.cache = DynamicCache(config=model.trunk.config)
        self.hidden = torch.zeros(0)
        self.log_probs: list[torch.Tensor] = []
        self.before: Prompt | None = None
        self.drawn: list[tuple[int, int]] = []  # (row, id) of this position
        self.marks: list[np.ndarray] = []
        self.residual: torch.Tensor | None = None

    def next(self) -> bool:
        """Take the next position from the prompt; False where it has ended."""
        self.drawn, self.residual = [], None
        if self.model.depth:
            self.before = self._copy(self.prompt)
        column = self.prompt.next(self.draw)
        if column is None:
            return False
        mark = np.zeros(len(column), dtype=bool)
        for row, chosen in self.drawn:
            # A layout may put another id than the drawn one, as where a given word is due.
            mark[row] = column[row] == chosen
        latent = self.prompt.latent(self._latent)
        self.columns.append(column)
        self.marks.append(mark)
        if self.model.latent_head:
            self.latents.append(np.full(self.model.latent_head.dim, np.nan, np.float32) if latent is None else latent)
        return True

    def draw(self, row: int, allowed: np.ndarray) -> int:
        """One id of a row for the position after the last column, among those that `allowed`, bool `[n_ids]`, marks."""
        if self.n_run < len(self.columns):
            self._run()
        ids = torch.from_numpy(np.flatnonzero(allowed))
        if self.model.gaussian and row > 0:
            chosen = self._nearest(row, ids)
        elif self.model.depth and row >= self.model.depth.first:
            given = torch.from_numpy(self._decided()[:row])[None].to(self.device)
            logits = self.model.depth_logits(self.hidden[None], given)[row - self.model.depth.first][0]
            chosen = self._choose(row, ids, logits.float().log_softmax(-1).double().cpu())
        else:
            chosen = self._choose(row, ids, self.log_probs[row])
        self.drawn.append((row, chosen))
        return chosen

    def _latent(self) -> np.ndarray:
        """A latent for the position after the last column."""
        if self.n_run < len(self.columns):
            self._run()
        head = self.model.latent_head
        assert head
        drawn: np.ndarray = head.sample(self.hidden[None], self.random, self.sampling.temperature)[0].cpu().numpy()
        return drawn

    def _choose(self, row: int, ids: torch.Tensor, log_probs: torch.Tensor) -> int:
        scores = log_probs[ids]
        if self.sampling.temperature == 0:
            return int(ids[scores.argmax()])
        top_k = self.sampling.text_top_k if row == 0 else self.sampling.speech_top_k
        best = scores.topk(min(top_k or len(scores), len(scores)))
        shares = (best.values / self.sampling.temperature).softmax(-1)
        return int(ids[best.indices[torch.multinomial(shares, 1, generator=self.random)]])

    def _nearest(self, row: int, ids: torch.Tensor) -> int:
        """Quantise what a Gaussian head gave for this position, level by level, in the frozen codebooks."""
        gaussian = self.model.gaussian
        assert gaussian
        if self.residual is None:
            self.residual = gaussian.sample(self.hidden, self.random, self.sampling.temperature)
        codes = ids[ids < self.model.rows[row].size]
        if not len(codes):
            return int(ids[0])
        chosen = gaussian.nearest(row - 1, self.residual.to(self.device), codes)
        self.residual = self.residual - gaussian.codebooks[row - 1][chosen].cpu()
        return chosen

    def _decided(self) -> np.ndarray:
        """The position's ids so far, also those that the layout gives without a draw.

        Only the layout knows them, and it tells at the end: the position is gone through again on a copy of the prompt, with
        what was drawn, and then anything.
        """
        assert self.before
        drawn = iter([chosen for _, chosen in self.drawn])
        column = self._copy(self.before).next(lambda row, allowed: next(drawn, int(np.flatnonzero(allowed)[0])))
        assert column is not None
        return column

    def _copy(self, prompt: Prompt) -> Prompt:
        layout = getattr(prompt, "layout", None)
        return copy.deepcopy(prompt, {id(layout): layout})

    def _run(self) -> None:
        new = torch.from_numpy(np.stack(self.columns[self.n_run :]))[None].to(self.device)
        latents = None
        if self.model.latent_head:
            latents = torch.from_numpy(np.stack(self.latents[self.n_run :]))[None].to(self.device)
        self.hidden = self.model.hidden(new, latents, past_key_values=self.cache, use_cache=True)[0, -1]
        self.n_run = len(self.columns)
        speech = [logits.float().log_softmax(-1) for logits in self.model.speech_logits(self.hidden)]
        self.log_probs = [scores.double().cpu() for scores in (self.model.text_log_probs(self.hidden), *speech)]


@torch.no_grad()
def generate(
    checkpoint: Checkpoint,
    text: str = "",
    prefix: dict[str, Any] | None = None,
    max_s: float = 8.0,
    sampling: Sampling | None = None,
    filler: Checkpoint | None = None,
) -> Generation:
    """Continue a prompt.

    Args:
        text: words to say first. prefix: a row of the reader with what the layout needs (`layout.columns`), said before `text`.
        max_s: seconds at the most, the prefix included. sampling: the same seed gives the same on the same machine.
        filler: a model of layout valle-nar, which says the codebooks that are left; `codes` are then of all, and `inputs` those of
            the first model. Such a model alone fills a row, of which it takes the first codebook as it is.

    Raises UserError where `prefix` lacks the layout's stream, or the filler is of other codes.
    """
    layout = checkpoint.layout
    if filler:
        check_filler(filler, checkpoint)
    words = checkpoint.text.encode(text.split())
    example = _example(checkpoint, prefix)
    silent = np.full(len(words), np.inf)
    example.words = example.words + words
    example.starts_s, example.ends_s = (np.concatenate([at, silent]) for at in (example.starts_s, example.ends_s))
    prompt = layout.prompt(example, max_s)
    if layout.in_place:
        return _filled(checkpoint, example)
    sampler = _Sampler(checkpoint.model, sampling or Sampling(), prompt)
    with _one_thread():
        while sampler.next():
            pass
    inputs = np.stack(sampler.columns)
    said, codes, units = layout.undo(inputs)
    if checkpoint.model.ctc:
        units = layout.units_of(checkpoint.model.read_units(inputs))
    if filler:
        spoken = checkpoint.text.decode(said)
        given = _example(filler, prefix).codes if prefix else filler.layout.no_codes()
        codes = fill(filler, filler.text.encode(spoken), codes, given[:, : codes.shape[1]])
    latents = layout.latents_of(inputs, np.stack(sampler.latents or [np.zeros(0, np.float32)]))
    return Generation(checkpoint.text.decode(said), codes, inputs, units, np.stack(sampler.marks), latents)


def _filled(checkpoint: Checkpoint, example: Example) -> Generation:
    """An example with all codebooks after the first as the model fills them, without a prompt."""
    layout = checkpoint.layout
    codes = fill(checkpoint, example.words, example.codes[:1], layout.no_codes())
    laid = layout.apply(replace(example, codes=codes))
    drawn = laid.labels >= 0
    inputs = np.where(drawn, laid.labels, laid.inputs)
    words, units = checkpoint.text.decode(example.words), np.zeros(0, dtype=np.int64)
    return Generation(words, codes, inputs, units, drawn, np.zeros((0, 0), dtype=np.float32))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one thread: the products of a single position are too small to share, and threads that wait for each other spin."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _example(checkpoint: Checkpoint, prefix: dict[str, Any] | None) -> Example:
    if prefix is None:
        return Example([], np.zeros(0), checkpoint.layout.no_codes())
    try:
        return checkpoint.layout.example(prefix, checkpoint.text.encode)
    except ValueError as error:
        raise UserError(str(error)) from None
