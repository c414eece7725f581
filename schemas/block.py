"""The element of the pipeline: a deterministic piece of the job."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from schemas.rejection import Reason, Rejection
from schemas.tokenizer import Tokenizer
from schemas.utterance import Utterance


@dataclass(slots=True)
class Piece:
    """What the plan says of one stretch of one source; decode fills in its samples.

    Attributes:
        source: the name rows carry. uri: where the bytes are.
        fingerprint: of the bytes (size and modification are not enough: see `pipeline.plan`).
        rate_hz: the source's own rate; 0 where its header could not be read.
        start, end: samples at the source's own rate; `end` is -1 for "to the end".
        declared_s: seconds that the header or the manifest claims for this piece; 0.0 where neither says.
        given: the manifest's other fields.
        at, size: the bytes of `uri` that are the file, where it is a member of a tar; `size` is -1 for the whole of `uri`.
        fault: reason and detail, where the plan found out already that it cannot be had; decode rejects it for that.
        samples: after decode, one float32 `[n]` array a channel, at the working rate; channel -1 is the mix.
        offset: the piece's first sample at the working rate, from the start of the source.
    """

    source: str
    uri: str
    fingerprint: str
    rate_hz: int = 0
    start: int = 0
    end: int = -1
    declared_s: float = 0.0
    given: dict[str, Any] = field(default_factory=dict)
    at: int = 0
    size: int = -1
    fault: tuple[str, str] | None = None
    samples: dict[int, np.ndarray] = field(default_factory=dict)
    offset: int = 0

    def plan(self) -> dict[str, Any]:
        """The planned fields only, as they stand in `plan.jsonl`."""
        names = ("source", "uri", "fingerprint", "rate_hz", "start", "end", "declared_s", "given")
        planned = {name: getattr(self, name) for name in names}
        if self.size >= 0:
            planned |= {"at": self.at, "size": self.size}
        return planned | ({"fault": list(self.fault)} if self.fault else {})


@dataclass(slots=True)
class Block:
    """Some minutes of audio, its utterances and its rejections. One block = one shard = the unit of commit and retry.

    Every stage takes a Block and gives a Block. What is in it is decided by the plan alone, never by the runner, so that
    batches inside it are always the same and its shard's bytes are too.

    Attributes:
        index: its place in the plan, and so its shard's name. rate_hz: the working rate of all samples in it.
        pieces: what it is made of. utterances: what is kept so far, ordered by (source, channel, start).
        rejections: what was turned away so far.
        samples_in: samples at `rate_hz`, over all channels, that decode took in, what it then rejected included.
        tokenizers: kind -> card of each token stream that a stage has written.
        stage_s: seconds of compute by stage (for the log; never in the shard, whose bytes must not depend on it).
    """

    index: int
    rate_hz: int
    pieces: list[Piece] = field(default_factory=list)
    utterances: list[Utterance] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    samples_in: int = 0
    tokenizers: dict[str, Tokenizer] = field(default_factory=dict)
    stage_s: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"part-{self.index:05d}"

    def reject(self, utterance: Utterance, stage: str, reason: Reason, detail: str = "") -> None:
        """Record that `utterance` is turned away. The caller takes it out of `utterances`."""
        self.rejections.append(
            Rejection(utterance.source, utterance.channel, utterance.start_s, utterance.end_s, stage, reason, detail)
        )

    def samples_of(self, rejection: Rejection) -> int:
        """Samples at the working rate in a rejection. Exact: every bound was made from a whole number of samples."""
        return round(rejection.end_s * self.rate_hz) - round(rejection.start_s * self.rate_hz)

    def check_conserved(self) -> None:
        """Raise AssertionError unless samples in = samples kept + samples rejected, exactly."""
        kept = sum(u.end - u.start for u in self.utterances)
        rejected = sum(self.samples_of(r) for r in self.rejections)
        assert self.samples_in == kept + rejected, (
            f"{self.name}: {self.samples_in} samples in, but {kept} kept + {rejected} rejected = {kept + rejected}"
        )
