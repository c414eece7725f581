"""A tiny checkpoint in distil-whisper large-v3's own format, with its vocabulary and its mel bands, and random weights."""

from pathlib import Path
from typing import Any


def write(folder: Path, *, bare: bool = False, **more: Any) -> Path:
    """Saved by transformers. bare: as WhisperModel, which leaves `model.` out of the names."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    sizes = {
        "vocab_size": 51866, "num_mel_bins": 128, "d_model": 64, "encoder_layers": 8, "encoder_attention_heads": 4,
        "encoder_ffn_dim": 256, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 256,
    }  # fmt: skip
    config = WhisperConfig(**(sizes | more), bos_token_id=50257, eos_token_id=50257, pad_token_id=50257)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = WhisperForConditionalGeneration(config)
        for parameter in model.model.parameters():
            # transformers starts so near to zero that no word would differ from another.
            if parameter.requires_grad and parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.3)
    (model.model if bare else model).save_pretrained(folder)
    return folder
