"""An embedding of each utterance's voice, and a name for each voice of a recording."""

import itertools
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from schemas import Block, Utterance
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


class Speaker(Stage):
    """Sets `speaker_embedding`, `speaker_share` and, where no speaker is given, `speaker`.

    Windows are grouped over all utterances of one source in the Block, of every channel. A Block sees nothing of another one, so
    a name holds the second at which the Block's part of the source begins: the same person has other names in other Blocks, and
    two people never have the same. Embeddings of different Blocks can be compared.

    A window has one speaker. Two who speak at once, and words much shorter than a window, are not told apart: `speaker_share` is
    low where an utterance goes from one voice to another, and stays 1 where somebody only says "yeah" in between.
    """

    name = "speaker"

    def __init__(self, options: SpeakerOptions) -> None:
        super().__init__(options)
        self._options = options

    def setup(self) -> None:
        """Raises MissingWeights where the encoder or Silero VAD is not on this machine."""
        from transforms.speaker.encoder import SpeakerEncoder
        from transforms.vad import SileroVad

        self._encoder = SpeakerEncoder(locate(self._options.model).path)
        self._vad = SileroVad(locate("silero-vad").path)

    def weights(self) -> dict[str, str]:
        return {name: locate(name).sha256 for name in (self._options.model, "silero-vad")}

    def __call__(self, block: Block) -> Block:
        from transforms.speaker.clustering import cluster
        from transforms.speaker.encoder import centre

        windows: dict[str, np.ndarray] = {}
        map_batches(block, self.name, self._windows, lambda u, found: windows.update({u.id: found}))
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


def _name(source: str, utterances: Sequence[Utterance], groups: Sequence[np.ndarray]) -> None:
    """Set `speaker` and `speaker_share` of one source's utterances. `groups`: for each the speakers `[W]` of its windows."""
    from transforms.speaker.clustering import majority

    start_s = min(u.start_s for u in utterances)
    for utterance, speakers in zip(utterances, groups, strict=True):
        speaker, share = majority(speakers)
        utterance.columns["speaker_share"] = share
        utterance.columns.setdefault("speaker", f"{source}#{start_s:.2f}/{speaker}")
