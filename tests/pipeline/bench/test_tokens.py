"""`antiphon evaluate tokens` on real speech: codecs whose quality is known beforehand, and the command as a person uses it."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.bench import run
from pipeline.bench.heard import Listener, Voices
from pipeline.bench.labels import Labels
from pipeline.bench.measure import Bench
from pipeline.bench.report import Report, Result, markdown, table
from pipeline.bench.subjects import Subject, Tokens
from pipeline.cli import main
from pipeline.config import load
from pipeline.prepare import plan_of, prepare, stages_of
from schemas import Utterance
from tests.conftest import Clip

for package in ("pesq", "torchmetrics", "matplotlib"):
    pytest.importorskip(package, reason="needs antiphon[bench]")


class Pcm:
    """Samples rounded to so many bits: with 16 the sound itself, with few a bad codec."""

    has_sound = True
    has_prefix = False

    def __init__(self, bits: int) -> None:
        self.name, self.sizes, self._half = f"{bits} bit", (1 << bits,), 1 << (bits - 1)

    def encode(self, utterance: Utterance) -> Tokens:
        codes = np.clip(np.round(utterance.samples * self._half), -self._half, self._half - 1).astype(np.int64)
        starts = np.arange(len(codes)) / utterance.rate_hz
        return Tokens(codes[None] + self._half, starts, starts + 1 / utterance.rate_hz)

    def decode(self, tokens: Tokens) -> tuple[np.ndarray, int]:
        return ((tokens.codes[0] - self._half) / self._half).astype(np.float32), 16000


class Split(Pcm):
    """16 bits in two codebooks: the upper `first`, which decode by themselves, and the others."""

    has_prefix = True

    def __init__(self, first: int) -> None:
        super().__init__(16)
        self._rest = 16 - first
        self.name, self.sizes = f"{first} of 16 bit", (1 << first, 1 << self._rest)

    def encode(self, utterance: Utterance) -> Tokens:
        tokens = super().encode(utterance)
        codes = np.stack([tokens.codes[0] >> self._rest, tokens.codes[0] & ((1 << self._rest) - 1)])
        return Tokens(codes, tokens.starts_s, tokens.ends_s)

    def decode(self, tokens: Tokens) -> tuple[np.ndarray, int]:
        rest = tokens.codes[1] if len(tokens.codes) > 1 else 1 << (self._rest - 1)
        return super().decode(Tokens((tokens.codes[0] << self._rest)[None] + rest, tokens.starts_s, tokens.ends_s))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, speech: list[Clip]) -> Path:
    """The four shortest clips, with their own texts; two speakers."""
    folder = tmp_path_factory.mktemp("tokens")
    short = sorted(speech, key=lambda clip: len(clip.samples))[:4]
    lines = [
        {"audio": str(c.path), "text": c.text.lower(), "speaker": f"reader {i % 2}", "language": "en"}
        for i, c in enumerate(short)
    ]
    (folder / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    off = [f"{stage}=null" for stage in ("units", "codec", "taste", "filter.min_align_score")]
    source = f"sources=['{folder / 'm.jsonl'}']"
    settings = load(None, [source, "segment.backend=none", "transcribe.backend=given", *off])
    prepare(settings, plan_of(settings), stages_of(settings), str(folder / "corpus"), say=lambda line: None)
    return folder / "corpus"


@pytest.fixture(scope="module")
def results(corpus: Path) -> list[Result]:
    """Of the clips themselves, of 16 bits, of 5, and of 16 in two codebooks of which the first has 5."""
    clips = run.first_clips(str(corpus), 4)
    originals = [clip.samples for clip in clips]
    labels = Labels(clips, None, n_steps=0)
    bench = Bench(clips, originals, labels, Listener("whisper-tiny"), Voices(), lambda line: None)
    return [bench.originals(), *(bench.measure(subject) for subject in (Pcm(16), Pcm(5), Split(5)))]


def test_a_codec_that_gives_back_the_sound_scores_as_the_sound_itself(results: list[Result]) -> None:
    original, same, *_ = results
    assert same.wer == original.wer
    assert same.speaker_similarity == pytest.approx(1.0, abs=1e-4)
    assert same.signal["pesq_wb"] > 4.6
    assert same.signal["stoi"] > 0.9999
    assert same.signal["mel_distance"] < 0.02


def test_a_codec_that_loses_most_of_it_scores_worse_and_costs_less(results: list[Result]) -> None:
    _, same, worse, _ = results
    for name in ("pesq_wb", "stoi", "si_sdr_db", "f0_correlation"):
        assert worse.signal[name] < same.signal[name], name
    for name in ("mel_distance", "stft_distance"):
        assert worse.signal[name] > same.signal[name], name
    assert worse.speaker_similarity < same.speaker_similarity
    assert worse.wer > same.wer
    assert worse.stream.raw_bits_per_s == pytest.approx(5 * 16000)
    assert worse.stream.coded_bits_per_s < worse.stream.unigram_bits_per_s < worse.stream.raw_bits_per_s
    assert worse.stream.coded_bits_per_s < same.stream.coded_bits_per_s


def test_the_first_codebook_is_heard_alone_where_it_decodes_alone(results: list[Result]) -> None:
    original, same, worse, split = results
    assert split.wer == same.wer
    assert split.wer_first is not None
    assert abs(split.wer_first - worse.wer) < abs(split.wer_first - split.wer)
    assert original.wer_first is same.wer_first is worse.wer_first is None


def test_tables_hold_a_column_for_each_and_no_measure_that_none_has(results: list[Result]) -> None:
    conditions = {"clips": 4, "seconds": 20.0, "corpus": "c", "date": "d", "machine": "m", "versions": "v"}
    report = Report(conditions | {"clock": "x", "words": "w", "probes": {}}, results)
    text, lines = table(report), markdown(report).splitlines()
    assert lines[0] == "| | original | 16 bit | 5 bit | 5 of 16 bit |"
    assert all(line.count("|") == 6 for line in lines if line.startswith("|"))
    assert "PROBES" not in text
    assert text.index("TOKENS") < text.index("SIGNAL") < text.index("APPLICATION") < text.index("SPEED")


def test_the_command_writes_table_figures_and_picture(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "tokens", str(corpus), "--tokenizer", "units", "--tokenizer", "lyra", "--probe-steps", "2"]
    assert main([*command, "--out", str(tmp_path / "new")]) == 0
    shown = capsys.readouterr().out
    assert "emotion probe: skipped" in shown
    found = json.loads((tmp_path / "new" / "tokens.json").read_text())
    by_name = {row["name"]: row for row in found["tokenizers"]}
    assert list(by_name) == ["original", "units", "lyra"]
    assert by_name["units"]["stream"]["raw_bits_per_s"] == pytest.approx(50 * np.log2(500), rel=0.02)
    assert by_name["units"]["wer"] is None
    assert by_name["lyra"]["stream"]["sizes"] == [16] * 16
    assert 0.5 < by_name["lyra"]["signal"]["stoi"] < 1
    assert set(by_name["lyra"]["probes"]) == {"phone", "speaker"}
    assert found["conditions"]["clips"] == 4
    assert (tmp_path / "new" / "tokens.png").read_bytes().startswith(b"\x89PNG")
    assert "| WER |" in (tmp_path / "new" / "tokens.md").read_text()


def test_ctrl_c_keeps_the_tokenizers_that_are_finished(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = Bench.measure

    def impatient(bench: Bench, subject: Subject) -> Result:
        if subject.name != "units":
            raise KeyboardInterrupt
        return measure(bench, subject)

    monkeypatch.setattr(Bench, "measure", impatient)
    command = ["evaluate", "tokens", str(corpus), "--rows", "1", "--probe-steps", "0", "--out", str(tmp_path)]
    assert main([*command, "--tokenizer", "units", "--tokenizer", "lyra", "--tokenizer", "taste"]) == 130
    assert "interrupted: without lyra, taste" in capsys.readouterr().out
    assert [row["name"] for row in json.loads((tmp_path / "tokens.json").read_text())["tokenizers"]] == [
        "original",
        "units",
    ]
    assert main([*command, "--tokenizer", "lyra"]) == 130
    assert "antiphon evaluate: interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no-corpus", "--tokenizer", "units"], "no-corpus: no corpus here"),
        (["{corpus}", "--tokenizer", "unitz"], "no such tokenizer"),
        (["{corpus}", "--tokenizer", "units", "--rows", "0"], "--rows 0"),
        (["{corpus}", "--tokenizer", "units", "--out", __file__], "that is a file"),
        (["{corpus}", "--tokenizer", "original"], "always the first row"),
        (["{corpus}", "--tokenizer", "codec:n_codebooks=99"], "n_codebooks is 99"),
        (["{corpus}", "--tokenizer", "units", "--phones", "absent.jsonl"], "absent.jsonl: No such file"),
        (["{corpus}", "--tokenizer", "units", "--recogniser", "no-such"], "no-such"),
    ],
)
def test_what_a_person_can_mend(
    corpus: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "tokens", *(word.format(corpus=corpus) for word in words)]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""


def test_without_the_extra_s_packages_it_says_how_to_get_them(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "find_spec", lambda name: None if name == "pesq" else name)
    assert main(["evaluate", "tokens", str(corpus), "--tokenizer", "units"]) == 2
    assert "needs pesq: pip install 'antiphon[bench]'" in capsys.readouterr().err
