"""What can be read off frozen tokens: a small fixed network is trained to tell a label from them, on clips it is not scored on.

After DASB (arXiv 2406.14294): an embedding for each codebook, a small network that scores each codebook's embedding, a softmax
over the codebooks and the weighted sum. On top of it two convolutions and a linear layer for labels in time (phones), or the mean
and deviation over time and a linear layer for labels of clips (speakers). One architecture for each, where DASB reports the
better of two; and all tokenizers are brought to one grid of 20 ms, so that all are scored on the same items.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.bench.phones import STEP_S, UNKNOWN, steps
from pipeline.bench.subjects import Tokens

FOLDS = 4
_DIM, _WIDTH = 64, 128
STEPS = 300
_BATCH, _WINDOW_S = 16, 2.0
_LR, _WEIGHT_DECAY, _DROPOUT = 3e-3, 1e-2, 0.2
_SEED = 20


@dataclass(frozen=True)
class ProbeReport:
    """How often a probe is right, over all folds together.

    Attributes:
        accuracy: share of the items told right. majority: that of always saying the class most frequent where it was trained.
        chance: one over the classes. items: how many were scored: steps of 20 ms, or clips.
        attention: mean weight of each codebook on the scored items, `[K]`.
    """

    accuracy: float
    majority: float
    chance: float
    classes: int
    items: int
    attention: list[float]


@dataclass(frozen=True)
class Streams:
    """The tokens of all clips, laid on the grid.

    Attributes:
        clips: each int64 `[n, K]`, the size of its codebook where there is no token; or float32 `[n, D]` where nothing is
            quantised.
        sizes: of the codebooks; empty for the latter.
    """

    clips: list[Tensor]
    sizes: tuple[int, ...]


def streams(tokens: Sequence[Tokens], durations_s: Sequence[float], sizes: Sequence[int]) -> Streams:
    """Tokens at the middle of every step of 20 ms."""
    laid = []
    for clip, seconds in zip(tokens, durations_s, strict=True):
        at_s = steps(seconds)
        at = np.searchsorted(clip.starts_s, at_s, side="right") - 1
        held = at >= 0
        held[held] = at_s[held] < clip.ends_s[at[held]]
        nothing = np.array(sizes) if sizes else np.zeros(len(clip.codes), dtype=np.float32)
        grid = np.repeat(nothing[None], len(at_s), axis=0)
        grid[held] = clip.codes.T[at[held]]
        laid.append(torch.from_numpy(grid))
    if not sizes:
        together = torch.cat(laid)
        mean, deviation = together.mean(0), together.std(0).clamp(min=1e-5)
        laid = [(clip - mean) / deviation for clip in laid]
    return Streams(laid, tuple(sizes))


class Probe(nn.Module):
    """`[B, n, K]` tokens -> logits: `[B, n, classes]` for labels in time, `[B, classes]` for labels of clips."""

    def __init__(self, sizes: Sequence[int], n_features: int, classes: int, in_time: bool) -> None:
        super().__init__()
        self.in_time = in_time
        self.tables = nn.ModuleList([nn.Embedding(size + 1, _DIM) for size in sizes])
        self.features = None if sizes else nn.Linear(n_features, _DIM)
        self.score = nn.Sequential(nn.Linear(_DIM, _DIM), nn.Tanh(), nn.Linear(_DIM, 1))
        self.near = nn.Conv1d(_DIM, _WIDTH, 5, padding=2)
        self.far = nn.Conv1d(_WIDTH, _WIDTH, 5, padding=4, dilation=2)
        self.out = nn.Linear(_WIDTH if in_time else 2 * _DIM, classes)

    def attention(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """-> embeddings `[B, n, K, _DIM]` and the weights of the codebooks `[B, n, K]`, which sum to 1."""
        if self.features is not None:
            embedded = self.features(tokens)[:, :, None]
        else:
            embedded = torch.stack([table(tokens[..., k]) for k, table in enumerate(self.tables)], dim=2)
        return embedded, self.score(embedded)[..., 0].softmax(-1)

    def forward(self, tokens: Tensor) -> Tensor:
        embedded, weights = self.attention(tokens)
        mixed = F.dropout((embedded * weights[..., None]).sum(2), _DROPOUT, self.training)
        if not self.in_time:
            pooled = torch.cat([mixed.mean(1), mixed.std(1, correction=0)], dim=-1)
            return self._out(pooled)
        hidden = F.gelu(self.near(mixed.transpose(1, 2)))
        hidden = F.dropout(F.gelu(self.far(hidden)), _DROPOUT, self.training)
        return self._out(hidden.transpose(1, 2))

    def _out(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.out(hidden)
        return logits


def probe_in_time(
    given: Streams, labels: Sequence[np.ndarray], groups: Sequence[str], n_steps: int = STEPS
) -> ProbeReport | str:
    """How well a label of every step can be told; or, in words, why it cannot be tried.

    Args:
        labels: of each clip, int `[n]`, UNKNOWN where there is none. groups: of each clip, such as its speaker: a group is
            either trained on or scored on. Where there are fewer groups than folds, clips are dealt out instead.
    """
    names = [g or f"clip {i}" for i, g in enumerate(groups)]
    of_group = {name: i % FOLDS for i, name in enumerate(dict.fromkeys(names))}
    folds = [of_group[name] for name in names] if len(of_group) >= FOLDS else [i % FOLDS for i in range(len(names))]
    if len(names) < FOLDS:
        return f"{len(names)} clips, and {FOLDS} are needed"
    found = [torch.from_numpy(np.asarray(x, dtype=np.int64)) for x in labels]
    if not any(bool((x != UNKNOWN).any()) for x in found):
        return "no clip has phones"
    return _cross(given, found, folds, n_steps, in_time=True)


def probe_clips(given: Streams, labels: Sequence[str], n_steps: int = STEPS) -> ProbeReport | str:
    """How well a label of the whole clip can be told; or, in words, why it cannot be tried. "" is no label.

    The clips of a label are dealt to the folds in turn; a label of one clip is left out. Clips are cut into pieces of 2 s, for
    training and for scoring.
    """
    count = {name: labels.count(name) for name in dict.fromkeys(labels) if name}
    classes = [name for name, n in count.items() if n > 1]
    if len(classes) < 2:
        return f"{len(classes)} of {len(count)} labels have more than one clip, and two are needed"
    dealt = dict.fromkeys(classes, 0)
    clips, found, folds = [], [], []
    length = round(_WINDOW_S / STEP_S)
    for clip, name in zip(given.clips, labels, strict=True):
        if name not in dealt:
            continue
        fold = dealt[name] % FOLDS
        dealt[name] += 1
        for piece in clip.split(length):
            if len(piece) == length or len(clip) < length:
                # A clip shorter than a piece is repeated up to its length: pieces are stacked.
                whole = piece.repeat(-(-length // max(1, len(piece))), 1)[:length] if len(piece) else None
                if whole is not None:
                    clips.append(whole)
                    found.append(torch.tensor([classes.index(name)]))
                    folds.append(fold)
    return _cross(Streams(clips, given.sizes), found, folds, n_steps, in_time=False)


def _cross(
    given: Streams, labels: Sequence[Tensor], folds: Sequence[int], n_steps: int, *, in_time: bool
) -> ProbeReport:
    """Train on all folds but one, score on that one, for each of them; the same tokens and labels give the same report."""
    known = torch.cat(list(labels))
    classes = sorted(set(known[known != UNKNOWN].tolist()))
    index = torch.full((max(classes) + 2,), UNKNOWN)
    index[torch.tensor(classes)] = torch.arange(len(classes))
    renamed = [index[x] for x in labels]  # UNKNOWN, which is -1, is the last entry
    right = majority = items = 0
    weights = torch.zeros(max(1, len(given.sizes)))
    n_weights = 0
    for fold in sorted(set(folds)):
        inside = [i for i, f in enumerate(folds) if f != fold]
        outside = [i for i, f in enumerate(folds) if f == fold]
        seen = torch.cat([renamed[i] for i in inside])
        if not (seen != UNKNOWN).any():
            continue
        commonest = seen[seen != UNKNOWN].bincount(minlength=len(classes)).argmax()
        network = _train(given, [renamed[i] for i in inside], inside, len(classes), n_steps, in_time)
        for i in outside:
            if not len(given.clips[i]):
                continue
            with torch.no_grad():
                told = network(given.clips[i][None])[0].argmax(-1).reshape(-1)
                share = network.attention(given.clips[i][None])[1][0]
            scored = renamed[i] != UNKNOWN
            right += int((told == renamed[i])[scored].sum())
            majority += int((renamed[i][scored] == commonest).sum())
            items += int(scored.sum())
            weights += share.sum(0)
            n_weights += len(share)
    return ProbeReport(
        accuracy=right / max(1, items),
        majority=majority / max(1, items),
        chance=1 / len(classes),
        classes=len(classes),
        items=items,
        attention=(weights / max(1, n_weights)).tolist(),
    )


def _train(
    given: Streams, labels: Sequence[Tensor], inside: Sequence[int], classes: int, n_steps: int, in_time: bool
) -> Probe:
    """A network trained on windows of 2 s of the clips `inside`, drawn at random from a fixed seed."""
    clips = [given.clips[i] for i in inside]
    length = round(_WINDOW_S / STEP_S)
    draw = torch.Generator().manual_seed(_SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        network = Probe(given.sizes, clips[0].shape[1], classes, in_time)
        optimiser = torch.optim.AdamW(network.parameters(), lr=_LR, weight_decay=_WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
        # Long clips are drawn more often, so that every step of 20 ms is as likely.
        odds = torch.tensor([max(1, len(clip)) for clip in clips], dtype=torch.float)
        for _ in range(n_steps):
            drawn = torch.multinomial(odds, _BATCH, replacement=True, generator=draw).tolist()
            starts = [int(torch.randint(max(1, len(clips[i]) - length + 1), (1,), generator=draw)) for i in drawn]
            windows = [(i, slice(a, a + length)) for i, a in zip(drawn, starts, strict=True)]
            tokens = torch.stack([_padded(clips[i][window], length, given.sizes) for i, window in windows])
            if in_time:
                wanted = torch.stack([_padded(labels[i][window], length) for i, window in windows])
            else:
                wanted = torch.cat([labels[i] for i in drawn])
            loss = F.cross_entropy(
                network(tokens).flatten(0, -2), wanted.flatten(), ignore_index=UNKNOWN, reduction="sum"
            )
            loss = loss / (wanted != UNKNOWN).sum().clamp(min=1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()


def _padded(x: Tensor, length: int, sizes: Sequence[int] | None = None) -> Tensor:
    """`[n, ...]` -> `[length, ...]`: labels with UNKNOWN, tokens with the entry that stands for none, features with zeros."""
    missing = length - len(x)
    if missing <= 0:
        return x
    if x.dim() == 1:
        return F.pad(x, (0, missing), value=UNKNOWN)
    filler = torch.tensor(sizes) if sizes else torch.zeros(x.shape[1])
    return torch.cat([x, filler.expand(missing, -1)])
