"""Text tokens ask, speech answers: one vector for each word from cross-attention over an ASR encoder's states.

The architecture is TASTE's (arXiv 2504.07053, section 2.1): the recogniser's own text tokens are the queries of a short
Whisper decoder; the keys are the encoder's last states, which know what is said, and the values those of a shallow layer,
which still know how. Whisper tiny and the larger checkpoints in openai-whisper's format differ in their sizes only.
"""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transforms.whisper_model import encoder_pass

if TYPE_CHECKING:
    from whisper import Whisper
    from whisper.model import AudioEncoder, MultiHeadAttention

RATE_HZ = 16000
FRAME_HZ = 50
"""Encoder states a second, in every Whisper checkpoint."""


class EncoderStates(NamedTuple):
    """keys, values: float32 `[T, D]`, T = ceil(n_samples / 320) at 16 kHz."""

    keys: Tensor
    values: Tensor


@torch.no_grad()
def encoder_states(encoder: "AudioEncoder", samples: np.ndarray, value_layer: int) -> EncoderStates:
    """Keys (after the last layer and its layer norm) and values (after `value_layer` layers) of one utterance.

    The encoder runs on the utterance's own length, with its positional embedding cut to it, and on each utterance alone: a
    30 s window would cost 7 times as much on clips of 4 s and pad the keys with silence, and a batch would make the states
    depend on their company. On LJSpeech the keys keep a cosine similarity of 0.975 to those of the padded window, and the
    decoder's aligned heads put as much of their attention on the word they stand at (0.90 against 0.89).

    Args:
        samples: float32 `[n]` at 16 kHz, at most 30 s.

    Raises:
        ValueError: longer than the positional embedding reaches.
    """
    last = len(encoder.blocks)
    values, hidden = encoder_pass(encoder).layers(samples, [value_layer, last])
    return EncoderStates(encoder.ln_post(hidden), values)


class Aggregator(nn.Module):
    """A few layers of Whisper's decoder whose cross-attention takes keys and values from different encoder layers.

    Trained are the cross-attention, the feed-forward layers and the last norm. The text embedding, the positions and the
    self-attention stay the checkpoint's own and are no part of what is stored.
    """

    mask: Tensor

    def __init__(self, whisper: "Whisper", layers: Sequence[int] = (0, 1), timed: bool = False) -> None:
        """
        Args:
            layers: decoder layers to start from. In Whisper tiny each of the first two has a head that attends to the very
                word whose token stands in the query (0.89 of its weight on LJSpeech); the heads of the last two, without
                the layers before them, attend to nothing in particular.
            timed: add to each vector when its heads look, and how widely. An attended mean of values hardly says how long it
                was looked at, which is what the paper's tokenizer has learnt from 40,000 hours; docs/taste.md has what this adds.
        """
        super().__init__()
        decoder = whisper.decoder
        self.embedding = copy.deepcopy(decoder.token_embedding).requires_grad_(False)
        self.register_buffer("positions", decoder.positional_embedding.detach().clone(), persistent=False)
        self.blocks = nn.ModuleList(copy.deepcopy(decoder.blocks[layer]) for layer in layers)
        self.norm = copy.deepcopy(decoder.ln)
        for block in self.blocks:
            block.attn.requires_grad_(False)
            block.attn_ln.requires_grad_(False)
            # The shallow states pass into the weighted sum as they are: the checkpoint's projection was made for the last layer's.
            nn.init.eye_(block.cross_attn.value.weight)
            nn.init.zeros_(block.cross_attn.value.bias)
        heads = sum(block.cross_attn.n_head for block in self.blocks)
        self.when = nn.Linear(2 * heads, self.embedding.embedding_dim) if timed else None

    @property
    def max_tokens(self) -> int:
        """Longest token sequence, prefix included, that the positions reach."""
        return len(self.positions)

    def forward(self, prefix: Tensor, ids: Tensor, keys: Tensor, values: Tensor, heard: Tensor) -> Tensor:
        """The vectors of the text tokens, `[B, N, D]`.

        The original appends <|endoftext|> and drops its vector. Under the causal mask no other position sees it, so it is
        left out here; for the same reason the padding of `ids` needs no mask.

        Args:
            prefix: int64 `[P]`: start of transcript, language, task, no timestamps. Their vectors are dropped.
            ids: int64 `[B, N]`, padded at the end with any id.
            keys, values: `[B, T, D]`. heard: bool `[B, T]`, False where padded.
        """
        tokens = torch.cat([prefix.expand(len(ids), -1), ids], dim=1)
        x = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        mask, looks = heard[:, None, None, :], []
        for block in self.blocks:
            normed = block.attn_ln(x)
            x = x + _attend(block.attn, *_queries_and_keys(block.attn, normed, normed), normed, causal=True)
            query, key = _queries_and_keys(block.cross_attn, block.cross_attn_ln(x), keys)
            if self.when is not None:
                looks.append(_look(query, key, mask))
            x = x + _attend(block.cross_attn, query, key, values, mask=mask)
            x = x + block.mlp(block.mlp_ln(x))
        x = self.norm(x)
        if self.when is not None:
            x = x + self.when(_when(looks))
        return x[:, len(prefix) :]


def _look(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    """Mean and standard deviation, in frames, of where each head looks: `[B, heads, N, d]`, `[B, heads, T, d]` -> float32
    `[2, B, N, heads]`."""
    # bfloat16 counts to 256 only.
    with torch.autocast(query.device.type, enabled=False):
        logits = query.float() @ key.float().transpose(-1, -2) / query.shape[-1] ** 0.5
        weights = logits.masked_fill(~mask, -torch.inf).softmax(-1)
        at = torch.arange(key.shape[2], device=key.device, dtype=torch.float32)
        mean = weights @ at
        variance = (weights * (at - mean[..., None]).square()).sum(-1)
        # A head that looks at one frame alone has a square root without a slope.
        return torch.stack([mean, (variance + 1e-3).sqrt()]).transpose(2, 3)


def _when(looks: Sequence[Tensor]) -> Tensor:
    """`[2, B, N, heads]` of each layer -> `[B, N, 2 heads]`: logarithms of the frames since where the token before looked, with
    their sign, and of how widely this one does."""
    mean, deviation = torch.cat(list(looks), dim=-1)
    since = torch.diff(mean, dim=1, prepend=torch.zeros_like(mean[:, :1]))
    return torch.cat([since.sign() * since.abs().log1p(), deviation.log1p()], dim=-1)


def word_mean(vectors: Tensor, word_ids: Tensor, n_words: int) -> Tensor:
    """`[N, D]` subword vectors and int64 `[N]` ascending word ids -> `[n_words, D]`, the mean over each word's subwords."""
    member = F.one_hot(word_ids, n_words).to(vectors.dtype)
    return (member.T @ vectors) / member.sum(0)[:, None]


def _attend(
    attention: "MultiHeadAttention",
    query: Tensor,
    key: Tensor,
    values: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """Whisper's attention layer with keys and values from two places: `[B, heads, N, d]`, `[B, heads, T, d]`, `[B, T, D]` ->
    `[B, N, D]`."""
    value = _heads(attention, attention.value(values))
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
    return attention.out(mixed.transpose(1, 2).flatten(2))


def _queries_and_keys(attention: "MultiHeadAttention", x: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """`[B, N, D]`, `[B, T, D]` -> `[B, heads, N, d]`, `[B, heads, T, d]`."""
    return _heads(attention, attention.query(x)), _heads(attention, attention.key(keys))


def _heads(attention: "MultiHeadAttention", y: Tensor) -> Tensor:
    """`[B, S, D]` -> `[B, heads, S, d]`."""
    return y.unflatten(-1, (attention.n_head, -1)).transpose(1, 2)
