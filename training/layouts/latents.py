"""Text first, then continuous latents of a codec, one position a frame or group of frames (CALM, arXiv 2509.06926; SALAD,
arXiv 2410.16048).

    text      BOS  t1  t2  t3  [Speech]  .   .   .   .
    frames     .   .   .   .   .         2   2   1   eos
    latent     .   .   .   .   .         z1  z2  z3  .

A position's latent is the next one to be predicted at the position before it, by a head for continuous targets. The row `frames`
says how many frames it holds, all of a group but at the end, and `eos`: that the speech is over is a decision among these few ids
(pocket-tts: a logit of its own). Latents are normalised by the scale in the codec's card; where it is a VAE, training draws them
anew from mean and variance each time.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from schemas import Latents, Tokenizer
from schemas.errors import UserError
from training.layouts.base import Example, Layout, LayoutOptions, Parts, Row, Script, Sequence, Vocabulary
from training.layouts.stream import Stream, StreamLayout, join


class LatentsLayoutOptions(LayoutOptions):
    """Text, then the continuous latents of its speech."""

    name: Literal["latents"] = "latents"
    """Which layout this is."""
    group: int = Field(default=1, ge=1)
    """Frames in a position. The last group is filled up with the mean latent."""
    learn_text: bool = True
    """Whether the text is to be predicted."""
    speech_weight: float = Field(default=0.1, ge=0)
    """Weight of when the speech ends in the total (pocket-tts: 0.1). That of the latents is `model.latent.weight`."""


class LatentsLayout(StreamLayout):
    """BOS, the words, [Speech], latents, EOS."""

    kinds = ("codec",)
    options: LatentsLayoutOptions

    def __init__(self, options: LayoutOptions, vocabulary: Vocabulary, cards: Mapping[str, Tokenizer]) -> None:
        """Raises UserError where the corpus has no latents."""
        Layout.__init__(self, options, vocabulary, cards)
        if self.card.latents is None:
            raise UserError(
                f"layout {self.name} needs continuous latents, and the corpus has none of {self.card.name}: "
                "prepare it with `codec.latents: true`"
            )
        self.scale: Latents = self.card.latents
        self.counts = tuple(str(n) for n in range(1, self.options.group + 1))
        text = Row("text", vocabulary.size, ("bos", "[Speech]", "eos"))
        self.rows = (text, Row("frames", 0, (*self.counts, "eos")))
        self.latent_dim = self.options.group * self.scale.dim

    def column_of(self, kind: str) -> str:
        return "codec_latents"

    @property
    def columns(self) -> tuple[str, ...]:
        return (*super().columns, *(["codec_latent_variance"] if self.scale.variance else []))

    def example(self, row: dict[str, Any], encode: Callable[[list[str]], list[list[int]]]) -> Example:
        example = super().example(row, encode)
        example.latents, example.codes = example.codes, self.no_codes()
        if self.scale.variance:
            example.latent_variance = row["codec_latent_variance"]
        return example

    def normal(self, latents: np.ndarray) -> np.ndarray:
        """Latents `[T, d]` -> float32 `[ceil(T / group), latent_dim]`, of mean 0 and deviation 1 as the card has it."""
        if latents.shape[1:] != (self.scale.dim,):
            raise ValueError(f"latents {latents.shape}, and the codec's card says [T, {self.scale.dim}]")
        values = (latents.astype(np.float64) - self.scale.mean) / self.scale.deviation
        return self._grouped(values)

    def _grouped(self, values: np.ndarray) -> np.ndarray:
        filled = np.pad(values, ((0, -len(values) % self.options.group), (0, 0)))
        return filled.reshape(-1, self.latent_dim).astype(np.float32)

    def noise(self, example: Example) -> np.ndarray | None:
        """The posterior's deviation in units of the normalised latents, as `normal` groups them; None where there is none."""
        if self.scale.variance:
            return self._grouped(np.sqrt(example.latent_variance.astype(np.float64)) / self.scale.deviation)
        if self.scale.noise:
            return self._grouped(np.full(example.latents.shape, self.scale.noise) / self.scale.deviation)
        return None

    def apply(self, example: Example) -> Sequence:
        n_frames, group = len(example.latents), self.options.group
        values = self.normal(example.latents) if n_frames else np.zeros((0, self.latent_dim), dtype=np.float32)
        sizes = [min(group, n_frames - at) for at in range(0, n_frames, group)]
        stream = Stream(self.rows)
        stream.mark(0, "bos", learnt=False)
        stream.put(0, join(example.words), self.options.learn_text)
        stream.mark(0, "[Speech]", self.options.learn_text)
        first = stream.n
        stream.put(1, [self.rows[1].special(str(size)) for size in sizes])
        stream.mark(1, "eos")
        laid = stream.sequence(example)
        laid.latents = np.full((stream.n, self.latent_dim), np.nan, dtype=np.float32)
        laid.latents[first : first + len(values)] = values
        laid.latent_labels = np.concatenate([laid.latents[1:], laid.latents[-1:]])
        if n_frames and (noise := self.noise(example)) is not None:
            laid.latent_noise = np.zeros_like(laid.latents)
            laid.latent_noise[first : first + len(noise)] = noise
        return laid

    def kept(self, example: Example) -> Parts:
        return Parts(example.words, self.no_codes())

    def undo(self, inputs: np.ndarray) -> Parts:
        text = inputs[:, 0]
        return Parts(self.vocabulary.split(text[(text >= 0) & (text < self.vocabulary.size)]), self.no_codes())

    def latents_of(self, inputs: np.ndarray, latents: np.ndarray) -> np.ndarray:
        held = [(i, n) for i, n in zip(latents, self.n_frames(inputs), strict=True) if n]
        parts = [group.reshape(self.options.group, -1)[:n] for group, n in held]
        found = np.concatenate([np.zeros((0, self.scale.dim)), *parts])
        return (found * self.scale.deviation + self.scale.mean).astype(np.float32)

    def n_frames(self, inputs: np.ndarray) -> list[int]:
        """How many frames each position `[S, R]` holds."""
        row = self.rows[1]
        return [int(row.specials[i]) if 0 <= i < row.special("eos") else 0 for i in inputs[:, 1].tolist()]

    def prompt(self, example: Example, max_s: float) -> "LatentScript":
        """The words are said, no more and no less. Latents that are given are gone on from, without a last part of a group."""
        return LatentScript(lambda script: self._speak(script, example, max_s))

    def _speak(self, script: Script, example: Example, max_s: float) -> Iterator[np.ndarray]:
        assert isinstance(script, LatentScript)
        row, group = self.rows[1], self.options.group
        yield self.mark(0, "bos")
        yield from self.force(0, join(example.words))
        yield self.mark(0, "[Speech]")
        n_given = len(example.latents) // group * group
        for given in self.normal(example.latents[:n_given]) if n_given else ():
            script.holds, script.given = True, given
            yield self.mark(1, str(group))
        left, size = max(1, round(max_s * self.card.rate_hz) - n_given), group
        script.holds = False
        # Something is said at least.
        end = ("eos",) if n_given else ()
        while left and size == group:
            drawn = script.draw(1, row.allow(False, *self.counts[:left], *end))
            end = ("eos",)
            if drawn == row.special("eos"):
                break
            size = int(row.specials[drawn])
            left -= size
            script.holds, script.given = True, None
            yield self.one(1, drawn)
        script.holds = False
        yield self.mark(1, "eos")


class LatentScript(Script):
    """A Script whose positions may hold latents. `holds`: whether the last one does; `given`: which, None to draw it."""

    holds = False
    given: np.ndarray | None = None

    def latent(self, sample: Callable[[], np.ndarray]) -> np.ndarray | None:
        if not self.holds:
            return None
        return sample() if self.given is None else self.given
