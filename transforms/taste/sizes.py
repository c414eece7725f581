"""The two sizes of TASTE from one code: what differs between them is numbers.

*full* is the paper's (arXiv 2504.07053, section 4.1) on distil-whisper large-v3; *compact* is for Whisper tiny and two cores.
"""

from typing import Any

from transforms.taste.unit_lm import UnitLMShape

TOKENIZER: dict[str, dict[str, Any]] = {
    "compact": {"layers": (0, 1), "value_layer": 2, "levels": 4, "size": 512, "code_dim": 128, "timed": True},
    "full": {
        "layers": (0, 1),
        "value_layer": 6,
        "levels": 4,
        "size": 512,
        "code_dim": 256,
        "padded": True,
        "timed": False,
    },
}
"""Arguments of `TasteTokenizer` for each size."""

_FULL_FIT = {
    "decoder": "unit_lm",
    "n_units": 4096,
    "decay": 0.99,
    "batch": 256,
    "learning_rate": 2e-4,
    "tokenizer_learning_rate": 2e-4,
}

FULL_DECODER = UnitLMShape()
"""The full speech decoder's."""


def fit_preset(name: str) -> dict[str, Any]:
    """Values of `FitTasteOptions` for a size. Compact is the options' own defaults; for full the recogniser must be named, and the
    encoder hears each utterance's own length, as at every size that is fitted here.

    Raises ValueError for another name.
    """
    if name not in TOKENIZER:
        raise ValueError(f"{name!r} is no size of TASTE; there are {' and '.join(TOKENIZER)}")
    if name == "compact":
        return {}
    return {key: value for key, value in TOKENIZER[name].items() if key != "padded"} | _FULL_FIT
