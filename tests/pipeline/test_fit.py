"""`antiphon fit`: from a corpus of real speech to tokenizers that the stages load."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli import main
from pipeline.config import load
from pipeline.fit import utterances, utterances_of
from pipeline.inspect import read_rows
from pipeline.prepare import plan_of, prepare, stages_of
from pipeline.store import Store
from schemas import Block, Utterance
from schemas.errors import UserError
from tests.conftest import Clip
from transforms.codec.stage import Codec, CodecOptions


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, speech: list[Clip]) -> Path:
    """Six clips with their own texts, aligned, with the embedded units."""
    folder = tmp_path_factory.mktemp("fit")
    lines = [{"audio": str(c.path), "text": c.text.lower(), "speaker": f"reader {i}"} for i, c in enumerate(speech)]
    (folder / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = load(
        None,
        [
            f"sources=['{folder / 'm.jsonl'}']",
            "segment.backend=none",
            "transcribe.backend=given",
            "filter.min_align_score=null",
            "codec=null",
            "taste=null",
            "plan.block_s=20",
        ],
    )
    prepare(settings, plan_of(settings), stages_of(settings), str(folder / "corpus"), say=lambda line: None)
    return folder / "corpus"


def test_rows_come_back_as_utterances_with_sound_and_speaker(corpus: Path, speech: list[Clip]) -> None:
    found = {u.source: u for u in utterances(str(corpus))}
    assert len(found) == len(speech)
    for i, clip in enumerate(speech):
        utterance = found[str(clip.path)]
        assert utterance.rate_hz == clip.rate_hz
        np.testing.assert_allclose(utterance.samples, clip.samples, atol=1 / 32768)
        assert utterance.given["speaker"] == f"reader {i}"
        assert utterance.units is not None


def test_units_fitted_here_are_what_the_stage_loads(corpus: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "new" / "units.safetensors"
    assert main(["fit", "units", str(corpus), "--out", str(out), "--set", "k=20", "--set", "layer=2"]) == 0
    assert "k-means: 20 centroids" in capsys.readouterr().err
    settings = load(None, [f"sources=['{corpus.parent / 'm.jsonl'}']", "segment.backend=none", "transcribe.backend=given",
                           "filter.min_align_score=null", "codec=null", "taste=null", "units.layer=2",
                           f"units.quantizer={out}"])  # fmt: skip
    prepare(settings, plan_of(settings), stages_of(settings), str(tmp_path / "again"), say=lambda line: None)
    rows = list(read_rows(str(tmp_path / "again")))
    assert len({unit for row in rows for unit in row["units"]}) > 10
    assert all(max(row["units"]) < 20 for row in rows)


def test_units_are_the_same_bytes_whatever_the_workers_and_the_order(corpus: Path, tmp_path: Path) -> None:
    from pipeline.fit_units import Union
    from pipeline.store import Store
    from transforms.units.fit import FitUnitsOptions, encode, fit_units, quantizer_of
    from transforms.units.reservoir import Reservoir
    from transforms.units.stage import make_encoder

    blocks = sorted(Store(str(corpus)).commits())
    assert len(blocks) > 1
    made = []
    for i, runner in enumerate(([], ["--direct_num_workers=2", "--direct_running_mode=multi_threading"])):
        out = tmp_path / f"{i}.safetensors"
        sets = ["--set", "k=20", "--set", "max_frames=300", "--set", "data=here"]
        assert main(["fit", "units", str(corpus), "--out", str(out), *sets, *runner]) == 0
        made.append(out.read_bytes())
    # Without Beam: the utterances of all blocks backwards, and each block on its own, merged in either order.
    options = FitUnitsOptions(path=tmp_path / "plain.safetensors", data="here", k=20, max_frames=300)
    fit_units(reversed(list(utterances(str(corpus)))), options, lambda _: None)
    made.append(options.path.read_bytes())
    encoder, union = make_encoder("whisper", options.model, options.layer), Union(300, options.seed)
    shards = []
    for block in blocks:
        shards.append(Reservoir.expecting(300, options.seed, 1000))
        for utterance in utterances_of(str(corpus), block):
            shards[-1].add(utterance.id, encode(encoder, utterance))
    for order in (shards, shards[::-1]):
        accumulator = union.create_accumulator()
        for shard in order:
            accumulator = union.add_input(accumulator, (shard, encoder.sha256, None))
        made.append(quantizer_of(union.extract_output(accumulator)[0], options, encoder.sha256, None, print)[0])
    assert all(one == made[0] for one in made)


def test_units_are_merged_and_come_back(corpus: Path, tmp_path: Path, capsys) -> None:
    from training.bpe import UnitBPE
    from training.layouts.spans import word_borders

    outs = [tmp_path / f"{name}.json" for name in ("a", "b", "words", "frames")]
    inside, repeated = ["--set", "inside_words=true"], ["--set", "deduplicate=false"]
    for out, more in zip(outs, ([], [], inside, repeated), strict=True):
        assert main(["fit", "bpe", str(corpus), "--out", str(out), "--set", "size=560", *more]) == 0
        assert "times shorter than the units" in capsys.readouterr().out
    assert outs[0].read_bytes() == outs[1].read_bytes()
    free, kept, frames = (UnitBPE.load(outs[i]) for i in (0, 2, 3))
    assert (free.size, free.inside_words, kept.inside_words) == (560, False, True)
    assert (free.deduplicated, frames.deduplicated) == (True, False)
    lengths = []
    for row in read_rows(str(corpus)):
        units, run_lengths = np.array(row["units"]), np.array(row["unit_run_lengths"])
        starts_s, ends_s = (np.array([w[at] for w in row["words"]]) for at in ("start_s", "end_s"))
        ends = word_borders(starts_s, ends_s, run_lengths, 50.0).tolist()
        for made, cuts in ((free, []), (frames, []), (kept, ends)):
            tokens = made.encode(units, run_lengths, cuts)
            back = made.decode(tokens)
            np.testing.assert_array_equal(back.units, units)
            np.testing.assert_array_equal(back.run_lengths, run_lengths)
            lengths.append((len(tokens.ids), len(units)))
        assert lengths[-2][0] < run_lengths.sum()
        # No token lies on both sides of the end of a word.
        starts = np.cumsum([0, *(len(kept.spelled[i]) for i in tokens.ids)])
        assert set(ends) <= set(starts.tolist())
    n_tokens, n_units = np.array(lengths)[::3].sum(axis=0)
    assert n_tokens < 0.95 * n_units
    assert main(["fit", "bpe", str(corpus), "--out", str(outs[0]), "--set", "size=20"]) == 2
    assert "20 tokens are fewer than the 500 units" in capsys.readouterr().err


def test_a_scale_of_latents_goes_into_the_card(tmp_path: Path, speech: list[Clip], capsys) -> None:
    """And then the latents of the rows it was measured on have mean 0 and deviation 1. They are the same as before."""

    def coded(**options: object) -> Block:
        stage = Codec(CodecOptions.model_validate({"latents": True, **options}))
        stage.setup()
        spoken = [Utterance(str(i), -1, 0, len(c.samples), c.samples, 16000) for i, c in enumerate(speech[:3])]
        block = stage(Block(0, 16000, utterances=spoken))
        block.samples_in = sum(len(u.samples) for u in spoken)
        return block

    before = coded()
    Store(str(tmp_path / "corpus")).commit(before, "test", ("webdataset",))
    out = tmp_path / "scale.safetensors"
    assert main(["fit", "latents", str(tmp_path / "corpus"), "--out", str(out)]) == 0
    assert "128 dimensions of antiphon-codec" in capsys.readouterr().out
    after = coded(latent_scale=str(out))
    old, new = before.tokenizers["codec"], after.tokenizers["codec"]
    assert old.latents != new.latents
    assert old.revision == new.revision
    assert new.latents
    for a, b in zip(before.utterances, after.utterances, strict=True):
        np.testing.assert_array_equal(a.codec_latents, b.codec_latents)
    every = np.concatenate([u.codec_latents for u in after.utterances]).astype(np.float64)  # type: ignore[misc]
    normal = (every - new.latents.mean) / new.latents.deviation
    np.testing.assert_allclose(normal.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(normal.std(0), 1, rtol=1e-3)
    assert out.name in str(Codec(CodecOptions(latents=True, latent_scale=str(out))).weights())
    with pytest.raises(UserError, match=r"is of codec revision .*: fit it on a corpus of this codec"):
        coded(latent_scale=str(out), chunk_s=5.0)
    Store(str(tmp_path / "bare")).commit(coded(latents=False), "test", ("parquet",))
    assert main(["fit", "latents", str(tmp_path / "bare"), "--out", str(out)]) == 2
    assert "prepare it with codec.latents: true" in capsys.readouterr().err


def test_a_codec_and_a_taste_tokenizer_are_written(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["steps=4", "steps_plain=2", "size=8", "batch=2", "log_every=2", "vocoded_crops=4", "vocoded_steps=2"]
    sets = [word for s in small for word in ("--set", s)]
    assert main(["fit", "codec", str(corpus), "--out", str(tmp_path / "codec.safetensors"), *sets]) == 0
    small = ["steps_text=1", "steps_plain=1", "steps_quantised=1", "size=8", "levels=2", "batch=2", "preset=full"]
    sets = [word for s in small for word in ("--set", s)]
    assert main(["fit", "taste", str(corpus), "--out", str(tmp_path / "taste"), *sets]) == 2
    assert "value_layer 6: the recogniser's encoder has 4 layers" in capsys.readouterr().err
    sets += ["--set", "value_layer=2"]
    assert main(["fit", "taste", str(corpus), "--out", str(tmp_path / "taste"), *sets]) == 0
    assert main(["fit", "taste", str(corpus), "--out", str(tmp_path / "taste"), "--set", "preset=huge"]) == 2
    assert "'huge' is no size of TASTE; there are compact and full" in capsys.readouterr().err
    assert (tmp_path / "codec.safetensors").stat().st_size > 1e6
    from transforms.taste.model import read_card

    card = read_card(tmp_path / "taste" / "antiphon-taste.safetensors")
    assert card["data"].startswith("6 utterances, 0.0")
    assert card["shape"] == {"layers": [0, 1], "value_layer": 2, "levels": 2, "size": 8, "code_dim": 256}
    assert card["options"]["decay"] == 0.99


def test_a_phone_classifier_is_written_and_aligns(corpus: Path, tmp_path: Path, speech: list[Clip]) -> None:
    out = tmp_path / "phones.safetensors"
    sets = ["--set", "epochs=1", "--set", "heldout_every=3", "--set", "width=32"]
    assert main(["fit", "align", str(corpus), "--out", str(out), *sets]) == 0
    from transforms.align.stage import Align, AlignOptions

    stage = Align(AlignOptions(backend="phones", model=str(out)))
    stage.setup()
    clip = speech[2]
    said = Utterance("a", -1, 0, len(clip.samples), clip.samples, 16000, text=clip.text.lower(), language="en")
    stage(Block(0, 16000, utterances=[said]))
    assert [w.text for w in said.words] == clip.text.lower().split()


def test_a_head_of_letters_and_an_overlap_detector_are_written(corpus: Path, tmp_path: Path) -> None:
    from transforms.align.head import Head

    small = ["epochs=1", "heldout_every=3", "width=16"]
    for what, kind, more in (("chars", "letters", []), ("overlap", "voices", ["hours=0.005", "length_s=4"])):
        out = tmp_path / f"{what}.safetensors"
        sets = [word for s in small + more for word in ("--set", s)]
        assert main(["fit", what, str(corpus), "--out", str(out), *sets]) == 0
        assert Head.load(out, "whisper-tiny", kind).about["data"].startswith("6 utterances")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "kk=20"], "fit units: kk: there is no such field; did you mean k?"),
        (["--set", "k=many"], "fit units: k: Input should be a valid integer"),
        (["--set", "k=20000"], "frames are too few for 20000 centroids"),
    ],
)
def test_what_cannot_be_fitted_is_said(corpus: Path, tmp_path: Path, capsys, arguments: list[str], words: str) -> None:
    assert main(["fit", "units", str(corpus), "--out", str(tmp_path / "u.safetensors"), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_no_corpus_and_another_suffix_are_said(corpus: Path, tmp_path: Path, capsys) -> None:
    assert main(["fit", "units", str(tmp_path / "none"), "--out", str(tmp_path / "u.safetensors")]) == 2
    assert "no committed shard here" in capsys.readouterr().err
    assert main(["fit", "units", str(corpus), "--out", str(tmp_path / "u.npy")]) == 2
    assert "give the name of a .safetensors file" in capsys.readouterr().err
