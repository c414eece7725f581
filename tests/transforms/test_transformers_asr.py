"""CTC and encoder-decoder recognisers through transformers, on small random checkpoints in the real format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transforms.transcribe.stage import TranscribeOptions
from transforms.transcribe.transformers_asr import CtcRecogniser, letter_logprob, transformers_recogniser

LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAOINSHRDLU"]
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": len(LETTERS),
    "pad_token_id": 0,
}


@pytest.fixture(scope="module", params=["Hubert-group", "Wav2Vec2-layer", "WavLM-layer"])
def ctc(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    import transformers

    kind, _, norm = request.param.partition("-")
    config = getattr(transformers, f"{kind}Config")(
        **SMALL, feat_extract_norm=norm, do_stable_layer_norm=norm == "layer"
    )
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp(request.param)
    model = getattr(transformers, f"{kind}ForCTC")(config)
    # A random head likes one letter best everywhere: without its bias and larger, it writes something.
    torch.nn.init.normal_(model.lm_head.weight, std=3.0)
    model.save_pretrained(path)
    (path / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(LETTERS)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(path / "vocab.json"))
    extractor = transformers.Wav2Vec2FeatureExtractor(
        do_normalize=norm == "layer", return_attention_mask=norm == "layer"
    )
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(path)
    return path


def noise(n: int, seed: int) -> np.ndarray:
    """Bursts of noise of changing strength, so that the frames differ."""
    random = np.random.default_rng(seed)
    loud = np.repeat(random.uniform(0.01, 0.5, n // 800 + 1), 800)[:n]
    return (random.normal(0, 1, n) * loud).astype(np.float32)


def options(folder: Path) -> TranscribeOptions:
    return TranscribeOptions(backend="transformers", model=str(folder))


def test_ctc_text_is_what_the_processor_decodes(ctc: Path) -> None:
    import torch
    from transformers import AutoModelForCTC, AutoProcessor

    samples = noise(24000, 1)
    processor, model = AutoProcessor.from_pretrained(ctc), AutoModelForCTC.from_pretrained(ctc).eval()
    with torch.no_grad():
        logits = model(**processor(samples, sampling_rate=16000, return_tensors="pt")).logits
    (found,) = transformers_recogniser(options(ctc)).transcribe([samples], ["en"], 0)
    expected = processor.batch_decode(logits.argmax(dim=-1), skip_special_tokens=True)[0]
    assert found.text == expected
    assert len(found.text) > 3
    assert found.language == "en"
    assert found.avg_logprob is not None
    assert found.avg_logprob < 0
    assert found.no_speech_prob is None


def test_ctc_does_not_depend_on_the_batch(ctc: Path) -> None:
    recogniser = transformers_recogniser(options(ctc))
    batch = [noise(n, i) for i, n in enumerate([16000, 9000, 16000, 5123])]
    together = recogniser.transcribe(batch, [None] * 4, 0)
    for found, samples in zip(together, batch, strict=True):
        (alone,) = recogniser.transcribe([samples], [None], 0)
        assert (found.text, found.language) == (alone.text, "")
        assert found.avg_logprob == pytest.approx(alone.avg_logprob, abs=1e-3)


def test_only_models_without_group_norm_are_padded(ctc: Path) -> None:
    recogniser = transformers_recogniser(options(ctc))
    assert isinstance(recogniser, CtcRecogniser)
    groups = list(recogniser._checkpoint.together([noise(n, 0) for n in (900, 800, 900)]))
    assert groups == ([[1], [0, 2]] if "group" in ctc.name else [[0, 1, 2]])


def test_letter_logprob_takes_the_best_frame_of_each_letter() -> None:
    ids = np.array([0, 5, 5, 0, 5, 6])
    log_probs = np.array([-0.1, -2.0, -1.0, -0.1, -3.0, -5.0])
    assert letter_logprob(ids, log_probs, blank=0) == pytest.approx(-3.0)
    assert letter_logprob(np.array([0, 0]), np.array([-1.0, -1.0]), blank=0) is None
    assert letter_logprob(np.array([], int), np.array([]), blank=0) is None


@pytest.fixture(scope="module", params=["moonshine", "speecht5"])
def seq2seq(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    extractor: Any
    if request.param == "moonshine":
        config = transformers.MoonshineConfig(
            vocab_size=len(LETTERS), hidden_size=32, intermediate_size=48, encoder_num_hidden_layers=1,
            decoder_num_hidden_layers=1, encoder_num_attention_heads=2, decoder_num_attention_heads=2,
            max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        )  # fmt: skip
        transformers.MoonshineForConditionalGeneration(config).save_pretrained(path)
        extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)
    else:
        config = transformers.SpeechT5Config(
            vocab_size=len(LETTERS), hidden_size=32, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=48,
            decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=48, conv_dim=(16,) * 7, max_text_positions=60,
            num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        )  # fmt: skip
        transformers.SpeechT5ForSpeechToText(config).save_pretrained(path)
        extractor = transformers.SpeechT5FeatureExtractor()
    extractor.save_pretrained(path)
    inner = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(LETTERS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(path)
    return path


def test_encoder_decoders_do_not_depend_on_the_batch(seq2seq: Path) -> None:
    once = options(seq2seq).model_copy(update={"temperatures": (0.0,)})
    recogniser = transformers_recogniser(once)
    batch = [noise(n, i) for i, n in enumerate([16000, 9000, 16000])]
    together = recogniser.transcribe(batch, ["en", None, "de"], 0)
    assert [found.language for found in together] == ["en", "", "de"]
    for found, samples in zip(together, batch, strict=True):
        (alone,) = recogniser.transcribe([samples], [None], 0)
        # All within one second: the bound on the text's length is the longest's.
        shorter = min(len(found.text), len(alone.text))
        assert found.text[:shorter] == alone.text[:shorter]
        assert found.avg_logprob is not None
        assert found.avg_logprob < 0


def test_encoder_decoders_sample_by_the_seed(seq2seq: Path) -> None:
    recogniser = transformers_recogniser(options(seq2seq).model_copy(update={"temperatures": (1.0,)}))
    runs = [recogniser.transcribe([noise(16000, 0)], ["en"], seed)[0].text for seed in (3, 3, 4)]
    assert runs[0] == runs[1] != runs[2]
