"""An embedding of each utterance's voice, and a name for each voice of a recording."""

import itertools
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from schemas import Block, Utterance
from schemas.utterance import Span
from transforms.batching import map_batches
from transforms.options import Options
from transforms.resample import resample
from transforms.stage import Stage
from transforms.weights import locate


class SpeakerOptions(Options):
    """Who speaks. A manifest's `speaker` is kept; the others get a name that holds within a block."""

    model: str = "resemblyzer"
    """Weights of the speaker encoder: a name that `antiphon pull` knows, or a path."""
    hop_s: float = Field(0.4, ge=0.01, le=1.6)
    """Seconds from one window of 1.6 s to the next."""
    threshold: float = Field(0.4, gt=0, lt=1)
    """Cosine distance: groups of windows whose mean distance is under it are one speaker. Larger means fewer speakers."""
    least_windows: int = Field(2, ge=1)
    """Smaller groups go to the nearest other group: a laugh, or two who speak at once, are no speaker."""
    overlap: str | None = "antiphon-overlap"
    """Weights of the overlap detector: a name, or a path to what `antiphon fit overlap` wrote. Null does not listen for overlap."""
    overlap_threshold: float = Field(0.5, gt=0, lt=1)
    """Probability of two or more voices from which they overlap, smoothed over 0.25 s. Lower finds more overlap, and marks more
    that is none."""
    encoder: str = "whisper-tiny"
    """The Whisper checkpoint whose encoder the overlap detector reads; the one it was fitted on."""


class Speaker(Stage):
    """Sets `speaker_embedding`, `speaker_share`, `speaker_overlaps`, `speaker_overlap_share` and, where none is given, `speaker`.

    Windows are grouped over all utterances of one source in the Block, of every channel. A Block sees nothing of another one, so
    a name holds the second at which the Block's part of the source begins: the same person has other names in other Blocks, and
    two people never have the same. Embeddings of different Blocks can be compared.

    A window has one speaker. Words much shorter than a window are not told apart: `speaker_share` is low where an utterance goes
    from one voice to another, and stays 1 where somebody only says "yeah" in between. Two who speak at once are marked, not
    separated (docs/benchmarks.md says how surely).
    """

    name = "speaker"
    version = 2

    def __init__(self, options: SpeakerOptions) -> None:
        super().__init__(options)
        self._options = options

    def setup(self) -> None:
        """Raises MissingWeights where the encoder or Silero VAD is not on this machine."""
        from transforms.speaker.encoder import SpeakerEncoder
        from transforms.vad import SileroVad

        self._encoder = SpeakerEncoder(locate(self._options.model).path)
        self._vad = SileroVad(locate("silero-vad").path)
        if self._options.overlap is not None:
            from transforms.speaker.overlap import OverlapDetector

            self._detector = OverlapDetector(locate(self._options.overlap).path, self._options.encoder)

    def weights(self) -> dict[str, str]:
        names = [self._options.model, "silero-vad"]
        names += [] if self._options.overlap is None else [self._options.overlap, self._options.encoder]
        return {name: locate(name).sha256 for name in names}

    def __call__(self, block: Block) -> Block:
        from transforms.speaker.clustering import cluster
        from transforms.speaker.encoder import centre

        windows: dict[str, np.ndarray] = {}
        map_batches(block, self.name, self._windows, lambda u, found: windows.update({u.id: found}))
        if self._options.overlap is not None:
            map_batches(block, self.name, self._overlaps, _mark, max_items=1)
        for source, group in itertools.groupby(block.utterances, key=lambda u: u.source):
            utterances = list(group)
            found = [windows[u.id] for u in utterances]
            for utterance, embeddings in zip(utterances, found, strict=True):
                utterance.speaker_embedding = centre(embeddings)
            groups = cluster(np.concatenate(found), self._options.threshold, self._options.least_windows)
            of_each = np.split(groups, np.cumsum([len(embeddings) for embeddings in found])[:-1])
            _name(source, utterances, of_each)
        return block

    def _windows(self, batch: list[Utterance]) -> list[np.ndarray]:
        """B utterances -> for each the embeddings `[W, 256]` of its windows with speech."""
        from transforms.speaker.clustering import spoken
        from transforms.speaker.encoder import RATE_HZ, louder, starts
        from transforms.vad import HOP_S

        hop = round(self._options.hop_s * 100)
        heard = [resample(u.samples, u.rate_hz, RATE_HZ) for u in batch]
        speech = [self._vad.probabilities(samples, RATE_HZ) >= 0.5 for samples in heard]
        found = self._encoder.windows([louder(samples) for samples in heard], hop)
        kept = [spoken(starts(len(x), hop), s, HOP_S) for x, s in zip(heard, speech, strict=True)]
        return [embeddings[k] for embeddings, k in zip(found, kept, strict=True)]

    def _overlaps(self, batch: list[Utterance]) -> list[list[tuple[float, float]]]:
        threshold = self._options.overlap_threshold
        return [self._detector.overlaps(resample(u.samples, u.rate_hz, 16000), threshold) for u in batch]


def _mark(utterance: Utterance, overlaps: Sequence[tuple[float, float]]) -> None:
    length_s = utterance.duration_s
    utterance.overlaps = [Span(start_s, min(end_s, length_s)) for start_s, end_s in overlaps if start_s < length_s]
    utterance.columns["speaker_overlap_share"] = sum(x.end_s - x.start_s for x in utterance.overlaps) / length_s


def _name(source: str, utterances: Sequence[Utterance], groups: Sequence[np.ndarray]) -> None:
    """Set `speaker` and `speaker_share` of one source's utterances. `groups`: for each the speakers `[W]` of its windows."""
    from transforms.speaker.clustering import majority

    start_s = min(u.start_s for u in utterances)
    for utterance, speakers in zip(utterances, groups, strict=True):
        speaker, share = majority(speakers)
        utterance.columns["speaker_share"] = share
        utterance.columns.setdefault("speaker", f"{source}#{start_s:.2f}/{speaker}")
