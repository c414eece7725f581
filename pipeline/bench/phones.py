"""Which phone is said when: the labels of the phone probe, every 20 ms, from a reference or from the project's aligner."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from schemas import Utterance
from schemas.errors import UserError
from transforms.align.g2p import Lexicon
from transforms.align.head import PHONES, STATES, Head
from transforms.align.phones import SHIFT_S
from transforms.align.placing import STAR, Units, choose, emissions
from transforms.align.viterbi import align
from transforms.align.words import tokens_of
from transforms.resample import resample
from transforms.weights import locate

STEP_S = 0.02
CLASSES = ("silence", *PHONES)
UNKNOWN = -1
"""Label of a step where nobody knows what is said; it is neither trained on nor counted."""
_SILENCE = {"", "sp", "sil", "SIL"}
_RATE_HZ = 16000
_FRAME_S = 0.01


def steps(seconds: float) -> np.ndarray:
    """The middles of all whole steps of 20 ms, in seconds, `[n]`."""
    return (np.arange(int(seconds / STEP_S + 1e-6)) + 0.5) * STEP_S


class PhoneLabels:
    """Phones by forced alignment of the row's own text: the pronunciations of each word, laid on the phone classifier's frames."""

    source = "the project's phone aligner"

    def __init__(self) -> None:
        """Raises MissingWeights."""
        self._head = Head.load(locate("antiphon-phones").path, "whisper-tiny")
        self._lexicon = Lexicon()

    def __call__(self, clip: Utterance) -> np.ndarray:
        """int `[n]` indices into CLASSES at `steps(duration)`, UNKNOWN where a word cannot be pronounced or nothing fits."""
        at_s = steps(clip.duration_s)
        labels = np.full(len(at_s), UNKNOWN)
        tokens, _ = tokens_of(clip.text.split(), clip.language or "en")
        samples = resample(clip.samples, clip.rate_hz, _RATE_HZ)
        log_posteriors = self._head.log_posteriors(samples)
        if not tokens or not len(log_posteriors):
            return labels
        scores = emissions(log_posteriors, self._head.prior)
        units = Units.spell(choose(scores, self._lexicon.look_up(tokens, clip.language)))
        states = align(scores, units.trellis())
        if states is None:
            return labels
        columns = np.where(states % 2, units.columns[np.minimum(states // 2, len(units.columns) - 1)], 0)
        frames = np.where(columns == 0, 0, 1 + (columns - 1) // STATES)
        frames = np.where(columns == STAR, UNKNOWN, frames)
        at = ((at_s - SHIFT_S) / _FRAME_S).astype(int)
        known = at < len(frames)
        labels[known] = frames[at[known]]
        return labels


class GivenPhones:
    """Phones from a manifest whose lines have `audio` and `phones`: [{"p": "AH0", "s": 0.1, "e": 0.2}, ...], seconds."""

    def __init__(self, path: str) -> None:
        """Raises UserError for a file that is not there or is no such manifest."""
        self.source = f"{Path(path).name}"
        self._lines: dict[str, Sequence[Mapping[str, Any]]] = {}
        number = 0
        try:
            for text in Path(path).read_text(encoding="utf-8").splitlines():
                number += 1
                line = json.loads(text)
                if not isinstance(line, dict):
                    raise TypeError(f"{text[:40]!r} is no object")
                self._lines[Path(line["audio"]).stem] = [_checked(phone) for phone in line.get("phones") or []]
        except OSError as error:
            raise UserError(f"--phones {path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"--phones {path}, line {number}: {type(error).__name__}: {error}") from None

    def __call__(self, clip: Utterance) -> np.ndarray:
        """As `PhoneLabels`; all UNKNOWN for a clip that the manifest does not have."""
        at_s = steps(clip.duration_s)
        labels = np.full(len(at_s), UNKNOWN)
        for phone in self._lines.get(Path(clip.source).stem, ()):
            inside = (at_s + clip.start_s >= phone["s"]) & (at_s + clip.start_s < phone["e"])
            labels[inside] = _class_of(phone["p"])
        return labels


def _checked(phone: Mapping[str, Any]) -> dict[str, Any]:
    return {"p": str(phone["p"]), "s": float(phone["s"]), "e": float(phone["e"])}


def _class_of(phone: str) -> int:
    """ARPAbet with or without its stress -> its index in CLASSES."""
    if phone in _SILENCE:
        return 0
    bare = re.sub(r"\d$", "", phone.upper())
    return CLASSES.index(bare) if bare in CLASSES else UNKNOWN
