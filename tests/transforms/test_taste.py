"""The TASTE tokenizer on real speech: one code tuple a word, the same whatever stands beside it, fitted by what it predicts."""

import ast
import copy
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from schemas import Block, Reason, Utterance, Word
from tests.conftest import Clip
from transforms.taste.aggregator import Aggregator, _look, _queries_and_keys, _when, encoder_states, word_mean
from transforms.taste.examples import build, collate, split
from transforms.taste.fit import FitTasteOptions, Trainer, fit_taste, voice
from transforms.taste.model import TasteTokenizer, WrongTokenizer, load, read_card, save
from transforms.taste.rvq import k_means
from transforms.taste.stage import Taste, TasteOptions
from transforms.weights import MissingWeights

N_UNITS = 40


@pytest.fixture(scope="module")
def whisper(shared):
    from transforms.whisper_model import load_whisper

    return load_whisper("whisper-tiny")


@pytest.fixture(scope="module")
def model(whisper) -> TasteTokenizer:
    return TasteTokenizer(whisper, levels=3, size=16, code_dim=32, timed=True).eval()


def utterance(clip: Clip, text: str | None = None) -> Utterance:
    text = clip.text if text is None else text
    said = text.split()
    step_s = len(clip.samples) / clip.rate_hz / max(1, len(said))
    words = [Word(word, i * step_s, (i + 1) * step_s, 0.0, "interpolated") for i, word in enumerate(said)]
    return Utterance(
        source=clip.path.name, channel=0, start=0, end=len(clip.samples), samples=clip.samples, rate_hz=clip.rate_hz,
        given=clip.line, language="en", text=text, words=words,
    )  # fmt: skip


@pytest.fixture(scope="module")
def with_units(speech, whisper) -> list[Utterance]:
    """Six clips with units: k-means over a shallow encoder layer, enough to fit on for a few steps."""
    states = [encoder_states(whisper.encoder, clip.samples, 2).values for clip in speech]
    centroids = k_means(torch.cat(states), N_UNITS, torch.Generator().manual_seed(0), 5)
    utterances = [utterance(clip) for clip in speech]
    for u, state in zip(utterances, states, strict=True):
        units, runs = torch.unique_consecutive(torch.cdist(state, centroids).argmin(1), return_counts=True)
        u.units, u.unit_run_lengths = units.numpy().astype(np.uint16), runs.numpy().astype(np.uint16)
        u.given = {"speaker": u.source}
    return utterances


def options(folder, **more) -> FitTasteOptions:
    small = {"n_units": N_UNITS, "levels": 3, "size": 16, "code_dim": 32, "batch": 2, "log_every": 5, "speaker": None}
    return FitTasteOptions(folder=folder, data="six clips", **(small | more))


def stage(**settings) -> Taste:
    made = Taste(TasteOptions(**settings))
    try:
        made.setup()
    except MissingWeights as missing:
        pytest.skip(str(missing))
    return made


# ── from speech to one vector for each word ──────────────────────────────────────────────────────────────────────────


def test_encoder_states_are_whispers_own(whisper, speech) -> None:
    from whisper.audio import log_mel_spectrogram, pad_or_trim

    window = pad_or_trim(speech[0].samples, 480_000)
    keys, values = encoder_states(whisper.encoder, window, 4)
    with torch.no_grad():
        theirs = whisper.encoder(log_mel_spectrogram(window)[None])[0]
    torch.testing.assert_close(keys, theirs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(whisper.encoder.ln_post(values), keys, atol=1e-4, rtol=1e-4)


def test_on_its_own_length_the_encoder_gives_ceil_of_50_hz_and_nearly_the_padded_keys(whisper, speech) -> None:
    from whisper.audio import log_mel_spectrogram

    samples = speech[0].samples
    keys, values = encoder_states(whisper.encoder, samples, 2)
    assert keys.shape == values.shape == (-(-(len(samples) // 160) // 2), whisper.dims.n_audio_state)
    padded = log_mel_spectrogram(samples, padding=480_000)[:, :3000]
    with torch.no_grad():
        theirs = whisper.encoder(padded[None])[0, : len(keys)]
    assert float(torch.cosine_similarity(keys, theirs, dim=-1).mean()) > 0.9
    with pytest.raises(ValueError, match=r"30.02 s of audio; the encoder reads at most 30.0 s"):
        encoder_states(whisper.encoder, np.zeros(480_320, dtype=np.float32), 2)


def test_values_pass_as_they_are_and_the_rest_starts_from_the_checkpoint(whisper) -> None:
    aggregator = Aggregator(whisper, (0, 1))
    for mine, theirs in zip(aggregator.blocks, whisper.decoder.blocks, strict=False):
        assert torch.equal(mine.cross_attn.value.weight, torch.eye(whisper.dims.n_text_state))
        assert not mine.cross_attn.value.bias.any()
        assert torch.equal(mine.cross_attn.key.weight, theirs.cross_attn.key.weight)
    trained = {name for name, p in aggregator.named_parameters() if p.requires_grad}
    assert not any(".attn." in name or name.startswith("embedding") for name in trained)
    assert any("cross_attn.query" in name for name in trained)


def test_with_all_layers_and_whispers_own_values_it_is_whispers_decoder(whisper, speech) -> None:
    aggregator = Aggregator(whisper, range(whisper.dims.n_text_layer))
    for mine, theirs in zip(aggregator.blocks, whisper.decoder.blocks, strict=True):
        mine.cross_attn.value.load_state_dict(theirs.cross_attn.value.state_dict())
    keys, _ = encoder_states(whisper.encoder, speech[0].samples, 2)
    prefix, ids = torch.tensor([50258, 50259, 50359, 50363]), torch.tensor([[400, 3431, 300]])
    with torch.no_grad():
        mine = aggregator(prefix, ids, keys[None], keys[None], torch.ones(1, len(keys), dtype=torch.bool))
        logits = whisper.decoder(torch.cat([prefix[None], ids], 1), keys[None])[:, 4:]
    torch.testing.assert_close(mine @ whisper.decoder.token_embedding.weight.T, logits, atol=1e-3, rtol=1e-3)


def test_where_a_head_looks_is_told_in_frames() -> None:
    from whisper.model import MultiHeadAttention

    attention = MultiHeadAttention(16, 2)
    with torch.no_grad():
        for layer in (attention.query, attention.key):
            layer.weight.copy_(10 * torch.eye(16))
        attention.query.bias.zero_()
    # Frame t has its mark in both heads; a token that bears it looks there alone, and one that bears none looks everywhere.
    marks = torch.eye(8).repeat(1, 2)
    keys, mask = marks[None], torch.ones(1, 1, 1, 8, dtype=torch.bool)
    with torch.no_grad():
        asked = torch.stack([marks[2], marks[7], torch.zeros(16)])[None]
        mean, deviation = _look(*_queries_and_keys(attention, asked, keys), mask)
        padded = _look(*_queries_and_keys(attention, torch.zeros(1, 1, 16), keys), torch.arange(8) < 5)
    torch.testing.assert_close(mean[0], torch.tensor([[2.0, 2], [7, 7], [3.5, 3.5]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(deviation[0, 2], torch.full((2,), (63 / 12) ** 0.5), atol=1e-3, rtol=0)
    assert deviation[0, :2].max() < 0.05
    torch.testing.assert_close(padded[:, 0, 0, 0], torch.tensor([2.0, 2**0.5]), atol=1e-3, rtol=0)
    when = _when([torch.stack([mean, deviation])])
    torch.testing.assert_close(when[0, :, 0].expm1(), torch.tensor([2.0, 5, 1 / 4.5 - 1]), atol=1e-2, rtol=0)


def test_without_the_times_of_its_looks_it_is_the_papers(whisper, speech) -> None:
    timed, paper = (TasteTokenizer(whisper, timed=timed) for timed in (True, False))
    assert set(timed.fitted()) - set(paper.fitted()) == {"aggregator.when.weight", "aggregator.when.bias"}
    with torch.no_grad():
        timed.aggregator.when.weight.zero_()
        timed.aggregator.when.bias.zero_()
    keys, values = paper.states(speech[0].samples)
    given = paper.prefix("en"), torch.tensor([[400, 3431]]), keys[None], values[None], torch.ones(1, len(keys)) > 0
    assert torch.equal(timed.aggregator(*given), paper.aggregator(*given))


def test_word_mean_is_the_mean_over_each_words_subwords() -> None:
    vectors = torch.tensor([[1.0], [2.0], [4.0], [6.0], [8.0]])
    assert word_mean(vectors, torch.tensor([0, 1, 1, 1, 2]), 3).tolist() == [[1.0], [4.0], [8.0]]


def test_padding_a_batch_changes_no_word(model, with_units, tmp_path) -> None:
    examples = build(with_units[:3], model, "en", voice(None), print)
    trainer = Trainer(model, options(tmp_path), 1)
    with torch.no_grad():
        together = trainer.word_vectors(collate(examples))
        alone = torch.cat([trainer.word_vectors(collate([e])) for e in examples])
    torch.testing.assert_close(together, alone, atol=2e-3, rtol=1e-3)


# ── fitting ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def fitted(with_units, tmp_path_factory):
    """A tokenizer fitted for a few steps, and what was said of it."""
    said: list[str] = []
    folder = tmp_path_factory.mktemp("taste")
    path = fit_taste(with_units, options(folder, steps_text=10, steps_plain=10, steps_quantised=10), said.append)
    return path, said


def test_a_small_fit_lowers_the_loss_and_tells_what_it_reached(fitted) -> None:
    path, said = fitted
    losses = [float(line.split("loss ")[1].split()[0]) for line in said if " loss " in line]
    assert len(losses) == 6
    assert losses[-1] < losses[0] - 1.0
    assert sum("eta" in line for line in said) == 6
    assert not list(path.parent.glob("*.fit*"))
    figures = read_card(path)["figures"]
    assert figures["heldout_utterances"] == 1
    for mode in ("text", "plain", "quantised"):
        assert 0 < figures[mode]["top1"] <= figures[mode]["top5"] <= 1
        assert 0 <= figures[mode]["lengths"] <= 1
    assert len(figures["quantised"]["codes_in_use"]) == 3


def test_what_is_stored_is_small_and_only_what_changed(fitted) -> None:
    path, _ = fitted
    decoder = path.with_name("antiphon-taste-decoder.safetensors")
    for file in (path, decoder):
        assert file.stat().st_size < 10e6
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        assert all(file.get_tensor(name).dtype == torch.float16 for name in names)
    assert "quantiser.codebooks" in names
    assert not any("embedding" in name or ".attn." in name or name.startswith("encoder") for name in names)


def test_the_same_seed_gives_the_same_file(with_units, tmp_path) -> None:
    files = []
    for name in ("a", "b"):
        path = fit_taste(
            with_units, options(tmp_path / name, steps_text=2, steps_plain=2, steps_quantised=2), lambda line: None
        )
        with safe_open(path, framework="pt") as file:
            files.append({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    assert all(torch.equal(files[0][key], files[1][key]) for key in files[0])


class Killed(BaseException):
    """What no handler in the fit catches."""


@pytest.mark.parametrize("at", [3, 5, 8])
def test_a_fit_that_was_killed_goes_on_to_the_same_bytes(with_units, whisper, tmp_path, at) -> None:
    small = {
        "steps_text": 3,
        "steps_plain": 2,
        "steps_quantised": 4,
        "steps_settle": 1,
        "save_every": 2,
        "log_every": 1,
        "evaluate_every": 1,
    }
    whole = options(tmp_path / "whole", **small)
    broken = options(tmp_path / "broken", **small)

    def kill(line: str) -> None:
        if f" {at}/9 " in line:
            raise Killed

    fit_taste(with_units, whole, lambda line: None)
    with pytest.raises(Killed):
        fit_taste(with_units, broken, kill)
    assert [f.name for f in broken.folder.iterdir()] == ["antiphon-taste.fit"]
    said: list[str] = []
    fit_taste(with_units, broken, said.append)
    assert f"going on after step {(at - 1) // 2 * 2}" in said
    names = ["antiphon-taste-decoder.safetensors", "antiphon-taste.safetensors"]
    assert sorted(f.name for f in broken.folder.iterdir()) == names
    for name in names:
        assert (broken.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_what_is_written_is_the_step_with_the_lowest_loss_on_those_kept_out(with_units, tmp_path) -> None:
    # So fast that the loss goes up again.
    fast = {"steps_text": 2, "steps_plain": 1, "steps_quantised": 6, "learning_rate": 0.05, "seed": 1}
    said: list[str] = []
    path = fit_taste(with_units, options(tmp_path / "best", **fast, evaluate_every=2), said.append)
    looks = [ast.literal_eval(line.split(": ", 1)[1])["loss"] for line in said if "held out after step" in line]
    assert [line.split(":")[0] for line in said if "held out after" in line] == [
        f"held out after step {step}" for step in (5, 7, 9)
    ]
    kept = read_card(path)["figures"]["quantised"]
    assert kept["loss"] == min(looks)
    assert kept["step"] == 5 + 2 * looks.index(min(looks))
    last = fit_taste(with_units, options(tmp_path / "last", **fast, evaluate_every=0), lambda line: None)
    assert read_card(last)["figures"]["quantised"]["loss"] == looks[-1]
    assert kept["step"] < 9
    with safe_open(path, "pt") as a, safe_open(last, "pt") as b:
        assert not torch.equal(a.get_tensor("quantiser.codebooks"), b.get_tensor("quantiser.codebooks"))


def test_the_example_tells_how_the_files_that_come_along_were_fitted() -> None:
    from examples.embedded import BOTH, EMBEDDED, RECIPES
    from transforms.taste.fit_sound import FitSoundOptions

    taste = read_card(EMBEDDED / "antiphon-taste.safetensors")
    assert taste["data"] == BOTH
    told = FitTasteOptions(folder=EMBEDDED, data=BOTH, **RECIPES["taste"]).model_dump(mode="json")
    assert {name: told[name] for name in taste["options"]} == taste["options"]
    with safe_open(EMBEDDED / "antiphon-taste-sound.safetensors", framework="pt") as file:
        sound = json.loads(file.metadata()["antiphon"])
    told = FitSoundOptions(path=EMBEDDED, data=BOTH, **RECIPES["sound"]).model_dump(mode="json")
    assert {name: told[name] for name in sound["options"]} == sound["options"]


def test_a_checkpoint_of_another_fit_is_refused(with_units, tmp_path) -> None:
    small = {"steps_text": 2, "steps_plain": 0, "steps_quantised": 0, "save_every": 1, "log_every": 1}

    def kill(line: str) -> None:
        if " 2/2 " in line:
            raise Killed

    with pytest.raises(Killed):
        fit_taste(with_units, options(tmp_path, **small), kill)
    with pytest.raises(ValueError, match="a fit with other options or data was interrupted here"):
        fit_taste(with_units, options(tmp_path, **small, seed=1), lambda line: None)
    (tmp_path / "antiphon-taste.fit").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="remove it to begin again"):
        fit_taste(with_units, options(tmp_path, **small), lambda line: None)


def test_held_out_are_whole_speakers(model, with_units) -> None:
    examples = build(with_units, model, "en", voice(None), print)
    train, heldout = split(examples, 0.3)
    assert len(heldout) == 2
    assert not {e.speaker for e in train} & {e.speaker for e in heldout}
    assert len(train) + len(heldout) == len(examples)
    with pytest.raises(ValueError, match="1 speakers in 1 utterances"):
        split(examples[:1], 0.3)


def test_fitting_needs_units_and_leaves_out_what_whisper_cannot_hold(model, speech, with_units) -> None:
    with pytest.raises(ValueError, match="no units; run the units stage"):
        build([utterance(speech[0])], model, "en", voice(None), print)
    said: list[str] = []
    wordless = utterance(speech[0], "")
    wordless.units = wordless.unit_run_lengths = np.ones(3, dtype=np.uint16)
    assert len(build([wordless, with_units[1]], model, "en", voice(None), said.append)) == 1
    assert "no words" in said[0]


def test_a_file_refuses_another_checkpoint_and_other_files_are_no_tokenizer(fitted, whisper, tmp_path) -> None:
    path, _ = fitted
    other = copy.deepcopy(whisper)
    with torch.no_grad():
        other.decoder.ln.bias[0] += 0.01
    with pytest.raises(WrongTokenizer, match="fitted on whisper-tiny, whose parameters have sha256"):
        load(path, other)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WrongTokenizer, match="not a file that `antiphon fit taste` wrote"):
        read_card(tmp_path / "other.safetensors")


def test_a_loaded_file_gives_the_codes_of_the_model_that_was_saved(fitted, whisper, speech, tmp_path) -> None:
    path, _ = fitted
    first = load(path, whisper)
    save(tmp_path / "again.safetensors", first.fitted(), read_card(path))
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    second = load(tmp_path / "again.safetensors", whisper)
    clip = speech[0]
    codes = first.codes(clip.samples, clip.text, "en")
    assert np.array_equal(codes, second.codes(clip.samples, clip.text, "en"))


# ── the stage, with the tokenizer that comes with the project ────────────────────────────────────────────────────────


def test_one_tuple_for_each_word_the_same_in_any_company(speech) -> None:
    taste = stage()
    together = taste(Block(0, 16000, utterances=[utterance(clip) for clip in speech]))
    assert not together.rejections
    for clip, u in zip(speech, together.utterances, strict=True):
        assert u.taste_codes.shape == (len(clip.text.split()), 4)
        assert 0 <= u.taste_codes.min() <= u.taste_codes.max() < 512
        alone = taste(Block(1, 16000, utterances=[utterance(clip)])).utterances[0]
        assert np.array_equal(alone.taste_codes, u.taste_codes)
    assert len({tuple(codes) for u in together.utterances for codes in u.taste_codes}) > 50


def test_the_same_words_said_by_another_have_other_codes(speech) -> None:
    taste = stage()
    text = "one two three four"
    block = taste(Block(0, 16000, utterances=[utterance(clip, text) for clip in speech[:2]]))
    first, second = (u.taste_codes for u in block.utterances)
    assert (first != second).mean() > 0.5


def test_the_card_and_the_fingerprint_name_both_weights(speech) -> None:
    taste = stage()
    card = taste(Block(0, 16000, utterances=[])).tokenizers["taste"]
    assert (card.kind, card.frames, card.sizes, card.hop) == ("taste", "word", (512,) * 4, 0)
    assert set(taste.weights()) == {"antiphon-taste", "whisper-tiny"}
    json.dumps(taste.fingerprint())


def test_too_much_text_or_audio_is_rejected_with_both_numbers_and_the_rest_is_kept(speech) -> None:
    taste = stage()
    clip = speech[0]
    long = utterance(Clip(clip.path, clip.line, np.zeros(31 * 16000, dtype=np.float32), 16000))
    wordy = utterance(clip, "word " * 500)
    wordless = utterance(clip, "")
    block = taste(Block(0, 16000, utterances=[long, wordy, utterance(clip), wordless]))
    assert [len(u.words) for u in block.utterances] == [len(clip.text.split()), 0]
    assert block.utterances[1].taste_codes.shape == (0, 4)
    assert {r.reason for r in block.rejections} == {Reason.FAILED}
    details = " ".join(r.detail for r in block.rejections)
    assert "31.0 s of audio; the encoder reads at most 30.0 s" in details
    assert "500 words are 504 tokens; the recogniser reads at most 448" in details
