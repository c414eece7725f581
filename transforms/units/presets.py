"""Published settings of SSL units by name: encoder, layer, number of centroids, rate, and where their k-means file is.

Names, layers, addresses and hashes of the k-means files are those of textlesslib's list of checkpoints
(facebookresearch/textlesslib, textless/data and textless/checkpoint_manager); the encoders are named as repositories of the
Hugging Face hub that hold them in transformers' format.
"""

from dataclasses import dataclass

_FILES = "https://dl.fbaipublicfiles.com/"


@dataclass(frozen=True, slots=True)
class Preset:
    """One published unit tokenizer.

    Attributes:
        model: the encoder on the hub; "" where no conversion of it is known, and `units.model` has to name a folder.
        layer: 1-based transformer layer. k: number of centroids. rate_hz: frames a second.
        normalize: whether the encoder was fed waveforms of zero mean and unit variance. fairseq's base models were not, although
            the preprocessor_config.json of their conversions may say so.
        kmeans: address of the published centroids, a pickle; `antiphon convert` reads it without running it.
        sha256: of that file. users: systems that are built on these units.
    """

    model: str
    layer: int
    k: int
    rate_hz: float
    normalize: bool
    kmeans: str
    sha256: str
    users: str


def _hubert(k: int, kmeans: str, sha256: str, layer: int = 6, users: str = "GSLM, SUTLM") -> Preset:
    return Preset("facebook/hubert-base-ls960", layer, k, 50.0, False, _FILES + kmeans, sha256, users)


PRESETS = {
    "hubert-base-ls960-l6-km50": _hubert(
        50,
        "textless_nlp/gslm/hubert/km50/km.bin",
        "d01a7d5bc2c54b7b5f25f321ba525b4d230b06e3927f90bad0394198bc89f494",
    ),
    "hubert-base-ls960-l6-km100": _hubert(
        100,
        "textless_nlp/gslm/hubert/km100/km.bin",
        "f14a3104615485381fc489701d6761c9abbdbb0d43607cf55518a1e2891023fe",
    ),
    "hubert-base-ls960-l6-km200": _hubert(
        200,
        "textless_nlp/gslm/hubert/km200/km.bin",
        "b3c46c9cdd1707ad852dd53c359aa73942e79d53c432a9a8a419ed046408024b",
    ),
    "hubert-base-ls960-l6-km500": _hubert(
        500,
        "textless_nlp/gslm/hubert/km500/km.bin",
        "411c8668e1314751404f58636f935fc73540a6793890435da4a8ffadf157398e",
    ),
    "hubert-base-ls960-l9-km500": _hubert(
        500,
        "hubert/hubert_base_ls960_L9_km500.bin",
        "4450dcbc90aa7d0553306a4b0fafef35c9b3c840468f02969273dfbb9db89a23",
        layer=9,
        users="Expresso",
    ),
    "hubert-base-ls960-l9-km2000-expresso": _hubert(
        2000,
        "textless_nlp/expresso/checkpoints/hubert_base_ls960_L9_km2000_expresso.bin",
        "ae73e3cc7ea0426faf43c8bb67fc3846a0f8708232526d045a101836e8c7929f",
        layer=9,
        users="Expresso",
    ),
    "mhubert-base-vp_en_es_fr-l11-km1000": Preset(
        "voidful/mhubert-base",
        11,
        1000,
        50.0,
        False,
        _FILES + "hubert/mhubert_base_vp_en_es_fr_it3_L11_km1000.bin",
        "c70f5416c38044d0c20e33fdeedf4533974a8ac4029985cdef3b755038381a0b",
        "SpeechGPT, LLaMA-Omni",
    ),
    "mhubert-base-25hz-l11-km500": Preset(
        "slprl/mhubert-base-25hz",
        11,
        500,
        25.0,
        False,
        _FILES + "textless_nlp/twist/speech_tokenizer/mhubert_base_25hz_cp_mls_cv_sp_fisher_L11_km500.bin",
        "03cc04a9c24fec4285e73e709c485756d8f116aa8e724eac555de6a7cf8d28ad",
        "TWIST, Spirit-LM, Slam",
    ),
    "mhubert-base-8lang-l12-km2000": Preset(
        "",
        12,
        2000,
        50.0,
        False,
        _FILES + "hubert/mhubert_base_vp_mls_cv_8lang_it3_L12_km2000.bin",
        "05de230870427dcdce334d29922ccce354c7e7d0574edc645f5daed47b1ccc18",
        "speech-to-speech translation, Expresso",
    ),
}
"""A preset's name is also the name of its centroids: `<name>.safetensors` in ANTIPHON_MODELS or the cache folder."""


def preset(name: str) -> Preset:
    """Raises ValueError, with all names, where there is none of that name."""
    if name not in PRESETS:
        raise ValueError(f"no preset of units is called {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def filled(values: dict[str, object]) -> dict[str, object]:
    """Options of the units stage with what their preset decides filled in.

    `model` and `quantizer` may be given beside it (a folder, a file of one's own); what makes the units what they are may not.

    Raises ValueError for an unknown preset, for another backend, layer or normalisation beside it, and where it names no encoder.
    """
    name = values.get("preset")
    if name is None:
        return values
    found = preset(str(name))
    fixed = {"backend": "transformers", "layer": found.layer, "normalize": found.normalize}
    for field, value in fixed.items():
        if values.get(field, value) != value:
            raise ValueError(
                f"preset {name} has {field} {value!r}, and {values[field]!r} is given; leave one of them out"
            )
    if not (values.get("model") or found.model):
        raise ValueError(
            f"preset {name}: no hub repository is known to hold its encoder in transformers' format; name a folder as `model`"
        )
    return {"model": found.model, "quantizer": str(name)} | values | fixed
