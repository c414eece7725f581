"""The one table of weights and samples that `antiphon pull` knows: what each is, its licence, and where it comes from."""

_STORED = {"lyra-v2": "lyra", "silero-vad": "silero_vad.onnx", "whisper-tiny": "whisper-tiny.pt"}


def stored_name(name: str) -> str:
    """The file or folder that a name is kept under; a hub's `owner/name` becomes `owner--name`."""
    return _STORED.get(name, name.replace("/", "--"))
