"""The receipt of one shard: the dataset *is* its commit records."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field

_FILE = re.compile(r"(data|rejected)/part-\d{5,}\.parquet|wds/part-\d{5,}\.tar")


@dataclass(slots=True)
class Commit:
    """One block, written. Serialised to `commits/part-00000.json`; the same block gives the same bytes.

    The record carries a hash of itself, so that a record of which one bit has turned is never taken for whole.

    Attributes:
        block: the shard's name. fingerprint: of the block's sources, config, code and weights.
        files: path relative to the corpus -> sha256 of its bytes.
        rows: utterances kept. rate_hz: rate of all the sample counts below.
        samples_in, samples_kept: counts at `rate_hz`. samples_rejected: the same by reason.
        rejections: count by reason.
    """

    block: str
    fingerprint: str
    files: dict[str, str]
    rows: int
    rate_hz: int
    samples_in: int
    samples_kept: int
    samples_rejected: dict[str, int] = field(default_factory=dict)
    rejections: dict[str, int] = field(default_factory=dict)

    @property
    def seconds_in(self) -> float:
        return self.samples_in / self.rate_hz

    @property
    def seconds_kept(self) -> float:
        return self.samples_kept / self.rate_hz

    @property
    def seconds_rejected(self) -> float:
        return sum(self.samples_rejected.values()) / self.rate_hz

    def to_json(self) -> str:
        fields = asdict(self)
        return json.dumps(fields | {"check": _check(fields)}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Commit":
        """The inverse of `to_json`. Raises ValueError where these are not the bytes that were written."""
        try:
            fields = json.loads(text)
            fields.pop("check", None)
            record = cls(**fields)
            whole = record.to_json() == text
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"not a commit record: {error}") from None
        if not whole:
            raise ValueError("not the bytes that were written: its own hash says otherwise")
        stray = [name for name in record.files if not _FILE.fullmatch(name)]
        if stray:
            # A record from a stranger could hold a true hash and yet lead out of the corpus.
            raise ValueError(f"names {stray[0]!r}, which is no file of a corpus")
        return record


def _check(fields: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
