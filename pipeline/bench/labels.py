"""What the probes are asked to tell of the clips."""

from collections.abc import Sequence

from pipeline.bench.phones import GivenPhones, PhoneLabels
from pipeline.bench.probe import FOLDS, STEPS, ProbeReport, probe_clips, probe_in_time, streams
from pipeline.bench.subjects import Tokens
from schemas import Utterance


class Labels:
    """What the probes are asked to tell.

    Attributes:
        speakers: of each clip, "" where unknown. about: by probe, where its labels come from.
    """

    def __init__(self, clips: Sequence[Utterance], phones: str | None, n_steps: int = STEPS) -> None:
        """`n_steps`: of training each probe; 0 for no probes. Raises MissingWeights, or UserError for `phones`."""
        self.speakers = [str(clip.given.get("speaker", "")) for clip in clips]
        self._durations_s = [clip.duration_s for clip in clips]
        self._n_steps = n_steps
        if not n_steps:
            self.about = {}
            return
        source = GivenPhones(phones) if phones else PhoneLabels()
        self._phones = [source(clip) for clip in clips]
        self.about = {
            "phone": f"by {source.source}, every 20 ms, silence among them; trained on other {self._apart()}",
            "speaker": "pieces of 2 s; trained on other clips of the same speakers",
        }
        self._of_clips = {"speaker": self.speakers}
        for name in sorted({label.name for clip in clips for label in clip.labels}):
            self._of_clips[name] = [next((x.label for x in clip.labels if x.name == name), "") for clip in clips]
            self.about[name] = "the corpus's own labels, pieces of 2 s; trained on other clips"
        if not any("emotion" in name for name in self._of_clips):
            self.about["emotion"] = "skipped, the corpus has no emotion labels"

    def _apart(self) -> str:
        return "speakers" if all(self.speakers) and len(set(self.speakers)) >= FOLDS else "clips"

    def probe(self, tokens: Sequence[Tokens], sizes: Sequence[int]) -> dict[str, ProbeReport | str]:
        """The probes' reports on the tokens of all clips; or, in words, why there is none."""
        if not self._n_steps:
            return {}
        given = streams(tokens, self._durations_s, sizes)
        found = {"phone": probe_in_time(given, self._phones, self.speakers, self._n_steps)}
        return found | {name: probe_clips(given, labels, self._n_steps) for name, labels in self._of_clips.items()}
