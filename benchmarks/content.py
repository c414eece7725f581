"""What each codebook of a mel codec says: linear probes on the codes' vectors for a frame's phone and a stretch's speaker.

python -m benchmarks.content [CODEC ...]

Phones: 20 clips of LJSpeech (Montreal Forced Aligner), one reader. Purity: frames whose code's commonest phone is the frame's
phone. Probe: logistic regression on the vector of a frame's code, on clips kept out of its training (five folds). Speakers: 60
clips of LibriSpeech test-other, ten readers, in stretches of 2 s; logistic regression on the mean and deviation of a stretch's
vectors, on clips kept out (six folds). The embedded units stand beside them.
"""

import argparse

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.common import Clip, clips, machine, table
from transforms.codec.mel import MelCodec, load_network
from transforms.resample import resample
from transforms.units import kmeans
from transforms.units.quantizer import load as load_quantizer
from transforms.units.stage import UnitsOptions, make_encoder
from transforms.weights import locate

_STRETCH_S = 2.0


class Codes:
    """A codec's codes of clips: int64 `[K, T]` each, and the vector of every code, `[K, size, d]`."""

    def __init__(self, model: str) -> None:
        self._codec = MelCodec(model, None)
        network = load_network(locate(model).path)
        self.vectors = network.codebooks.numpy()
        self.rate_hz = self._codec.sample_rate_hz / self._codec.hop
        # Of a pair of vectors each code tells one half.
        self.first_s = [(k % network.pair + 0.5) / network.pair / self.rate_hz for k in range(len(self.vectors))]
        """The centre of what the first code of each codebook tells."""

    def of(self, clip: Clip) -> np.ndarray:
        return self._codec.encode(resample(clip.samples, clip.rate_hz, self._codec.sample_rate_hz))


class Units:
    """The embedded units, as a codec of one codebook."""

    def __init__(self) -> None:
        options = UnitsOptions()
        self._encoder = make_encoder(options.backend, options.model, options.layer)
        self.vectors = load_quantizer(locate(options.quantizer).path).centroids[None]
        self.rate_hz = self._encoder.sample_rate_hz / self._encoder.hop
        self.first_s = [0.0]

    def of(self, clip: Clip) -> np.ndarray:
        samples = resample(clip.samples, clip.rate_hz, self._encoder.sample_rate_hz)
        return kmeans.assign(self._encoder.features([samples])[0], self.vectors[0])[None]


def phones_at(clip: Clip, times_s: np.ndarray) -> np.ndarray:
    """The phone at each time without its stress; "" where the aligner has none."""
    ends = np.array([phone["e"] for phone in clip.line["phones"]])
    names = [phone["p"].rstrip("012") for phone in clip.line["phones"]] + [""]
    at = np.searchsorted(ends, times_s, side="right")
    return np.array(
        [
            names[i] if i < len(ends) and clip.line["phones"][i]["s"] <= t else ""
            for i, t in zip(at, times_s, strict=True)
        ]
    )


def purity(codes: np.ndarray, labels: np.ndarray) -> float:
    """Share of frames `[N]` that have their code's commonest label."""
    counts = np.zeros((codes.max() + 1, labels.max() + 1), dtype=np.int64)
    np.add.at(counts, (codes, labels), 1)
    return float(counts.max(axis=1).sum() / len(codes))


def probe(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, folds: int) -> float:
    """Accuracy of logistic regression on groups kept out: `[N, d]`, `[N]`, `[N]`."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    scores = cross_val_score(model, features, labels, groups=groups, cv=GroupKFold(folds))
    return float(scores.mean())


def phone_figures(tokens: Codes | Units, found: list[Clip]) -> list[tuple[float, float]]:
    """(purity, probe's accuracy) of every codebook."""
    coded = [tokens.of(clip) for clip in found]
    groups = np.repeat(np.arange(len(found)), [c.shape[1] for c in coded])
    figures = []
    for k, (first_s, vectors) in enumerate(zip(tokens.first_s, tokens.vectors, strict=True)):
        row = np.concatenate([codes[k] for codes in coded])
        labels = np.concatenate(
            [
                phones_at(clip, first_s + np.arange(codes.shape[1]) / tokens.rate_hz)
                for clip, codes in zip(found, coded, strict=True)
            ]
        )
        known = labels != ""
        numbers = np.unique(labels[known], return_inverse=True)[1]
        figures.append((purity(row[known], numbers), probe(vectors[row[known]], numbers, groups[known], 5)))
    return figures


def speaker_figures(tokens: Codes | Units, found: list[Clip]) -> list[float]:
    """The probe's accuracy for every codebook, and where there are several for all but the first together."""
    length = round(_STRETCH_S * tokens.rate_hz)
    stretches, speakers, groups = [], [], []
    seen: dict[str, int] = {}
    for clip in found:
        codes = tokens.of(clip)
        fold = seen[clip.line["speaker"]] = seen.get(clip.line["speaker"], -1) + 1
        for start in range(0, codes.shape[1] - length + 1, length):
            stretches.append(codes[:, start : start + length])
            speakers.append(clip.line["speaker"])
            groups.append(fold)
    features = []
    for k, vectors in enumerate(tokens.vectors):
        said = [vectors[stretch[k]] for stretch in stretches]
        features.append(np.stack([np.concatenate([s.mean(axis=0), s.std(axis=0)]) for s in said]))
    if len(features) > 1:
        features.append(np.concatenate(features[1:], axis=1))
    return [probe(f, np.array(speakers), np.array(groups), len(set(groups))) for f in features]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codec", nargs="*", default=["antiphon-codec"], help="names or paths of mel codecs")
    reader, readers = clips("ljspeech.jsonl"), clips("librispeech-test-other.jsonl")
    print(machine("torch", "scikit-learn") + "\n")
    rows = []
    tokenizers: dict[str, Codes | Units] = {name: Codes(name) for name in parser.parse_args().codec}
    for name, tokens in {"units": Units(), **tokenizers}.items():
        phones, speakers = phone_figures(tokens, reader), speaker_figures(tokens, readers)
        for k, ((pure, right), speaker) in enumerate(zip(phones, speakers, strict=False)):
            rows.append([name, k, f"{pure:.3f}", f"{right:.1%}", f"{speaker:.1%}"])
        if len(speakers) > len(phones):
            rows.append([name, "all but the first", "", "", f"{speakers[-1]:.1%}"])
    print(table(["tokens", "codebook", "phone purity", "phone probe", "speaker probe (10 readers)"], rows))


if __name__ == "__main__":
    main()
