"""A HiFi-GAN V1 generator in its publisher's checkpoint -> transformers' `SpeechT5HifiGan`, weight norm folded in.

Architecture and mel settings: Kong et al. 2020, config_v1.json of the UNIVERSAL_V1 release (22.05 kHz, 80 mel bands).
"""

import json
from pathlib import Path
from typing import Any

MEL = {
    "rate_hz": 22050,
    "n_fft": 1024,
    "win_length": 1024,
    "hop_length": 256,
    "n_mels": 80,
    "fmin_hz": 0.0,
    "fmax_hz": 8000.0,
    "log": "natural, of magnitudes clipped at 1e-5",
    "mel_scale": "slaney",
}


def convert(fetched: Path, target: Path) -> None:
    """`fetched` holds generator.pth.tar ({"generator": state dict}); `target` becomes a folder for `from_pretrained`.

    Beside the model it holds mel.json, the spectrogram that the generator was trained on.
    """
    import torch
    import transformers
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    transformers.utils.logging.disable_progress_bar()
    checkpoint = torch.load(fetched / "generator.pth.tar", map_location="cpu", weights_only=True)
    config = SpeechT5HifiGanConfig(
        model_in_dim=MEL["n_mels"],
        sampling_rate=MEL["rate_hz"],
        upsample_initial_channel=512,
        upsample_rates=[8, 8, 2, 2],
        upsample_kernel_sizes=[16, 16, 4, 4],
        resblock_kernel_sizes=[3, 7, 11],
        resblock_dilation_sizes=[[1, 3, 5], [1, 3, 5], [1, 3, 5]],
        normalize_before=False,
    )
    model = SpeechT5HifiGan(config)
    state = fold_weight_norm(checkpoint["generator"])
    state = {name.replace("ups.", "upsampler.", 1) if name.startswith("ups.") else name: w for name, w in state.items()}
    # `mean` and `scale` normalise the input, which this release leaves as it is; every other tensor must be given.
    model.load_state_dict({"mean": model.mean, "scale": model.scale, **state}, strict=True)
    model.save_pretrained(target)
    (target / "mel.json").write_text(json.dumps(MEL, indent=2) + "\n")


def fold_weight_norm(state: dict[str, Any]) -> dict[str, Any]:
    """Replace each pair `weight_g` [C, 1, 1], `weight_v` [C, ...] by `weight` = g v / |v|, the norm over all but axis 0."""
    folded = {}
    for name, values in state.items():
        stem, _, kind = name.rpartition(".")
        if kind == "weight_v":
            norm = values.flatten(1).norm(dim=1).view(-1, *[1] * (values.dim() - 1))
            folded[f"{stem}.weight"] = state[f"{stem}.weight_g"] * values / norm
        elif kind != "weight_g":
            folded[name] = values
    return folded
