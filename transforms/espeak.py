"""espeak-ng (the espeakng-loader package carries library and voices): phonemes, and a plain voice.

Each call runs in a process of its own. The library keeps its random state from one text to the next, so that the same text would
not always give the same samples, and it can hang on a voice that it does not have; a fresh process and a time limit mend both.
"""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

_LIMIT_S = 60
_TRIES = 3
"""The library's own thread has crashed a process (seen once); the next process gives the same answer."""
_AUDIO_OUTPUT_RETRIEVAL = 1
_DONT_EXIT = 0x8000
_POS_CHARACTER = 1
_CHARS_UTF8 = 1
_PHONEMES_IPA = 2
_PARAMETER_RATE = 1
_WORD = 1


class EspeakError(RuntimeError):
    """The library refused a voice or a text, or took too long over it."""


def speak(text: str, voice: str = "en-us", words_per_minute: int = 160) -> tuple[np.ndarray, int]:
    """Text -> float32 `[n]` and its rate in Hz. Raises EspeakError."""
    data = _run({"do": "speak", "text": text, "voice": voice, "words_per_minute": words_per_minute})
    rate_hz = int.from_bytes(data[:4], "little")
    return np.frombuffer(data[4:], np.int16).astype(np.float32) / 32768, rate_hz


def speak_timed(
    text: str, voice: str = "en-us", words_per_minute: int = 160
) -> tuple[np.ndarray, int, list[tuple[int, float]]]:
    """As `speak`, with (0-based character, start_s) of each word, as the library's own word events have it. Raises EspeakError."""
    data = _run({"do": "speak timed", "text": text, "voice": voice, "words_per_minute": words_per_minute})
    length = int.from_bytes(data[:4], "little")
    rate_hz, events = json.loads(data[4 : 4 + length])
    samples = np.frombuffer(data[4 + length :], np.int16).astype(np.float32) / 32768
    return samples, rate_hz, [(position - 1, sample / rate_hz) for position, sample in events]


def phonemes(texts: Sequence[str], voice: str = "en-us") -> list[list[str]]:
    """Each text -> its clauses in IPA, with stress marks. Raises EspeakError."""
    found: list[list[str]] = json.loads(_run({"do": "phonemes", "texts": list(texts), "voice": voice}))
    return found


def _run(request: dict[str, object]) -> bytes:
    for _ in range(_TRIES):
        try:
            # By path, not by module: the child then imports numpy and nothing else of this project.
            done = subprocess.run(
                [sys.executable, __file__], input=json.dumps(request).encode(), capture_output=True, timeout=_LIMIT_S
            )
        except subprocess.TimeoutExpired:
            raise EspeakError(f"espeak-ng took more than {_LIMIT_S} s over {request}") from None
        if done.returncode >= 0:
            break
    if done.returncode:
        raise EspeakError(
            done.stderr.decode(errors="replace").strip() or f"espeak-ng ended with code {done.returncode}"
        )
    return done.stdout


def _child() -> None:
    """What the child process does: one request on standard input, its answer on standard output."""
    import espeakng_loader

    request = json.loads(sys.stdin.buffer.read())
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate_hz = library.espeak_Initialize(
        _AUDIO_OUTPUT_RETRIEVAL, 0, espeakng_loader.get_data_path().encode(), _DONT_EXIT
    )
    if rate_hz <= 0:
        sys.exit(f"espeak-ng does not start (code {rate_hz})")
    if not _choose(library, request["voice"].encode()):
        sys.exit(f"espeak-ng has no voice {request['voice']!r}")
    if request["do"] == "phonemes":
        sys.stdout.buffer.write(json.dumps([_phonemes(library, text) for text in request["texts"]]).encode())
        return
    parts: list[bytes] = []
    words: list[tuple[int, int]] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    def keep(samples: int | None, count: int, events: int | None) -> int:
        if samples and count > 0:
            parts.append(ctypes.string_at(samples, 2 * count))
        at = ctypes.cast(events or 0, ctypes.POINTER(_Event))
        while at and at.contents.type:
            if at.contents.type == _WORD:
                words.append((at.contents.text_position, at.contents.sample))
            at = ctypes.cast(ctypes.addressof(at.contents) + ctypes.sizeof(_Event), ctypes.POINTER(_Event))
        return 0

    library.espeak_SetSynthCallback(keep)
    library.espeak_SetParameter(_PARAMETER_RATE, request["words_per_minute"], 0)
    data = request["text"].encode()
    if library.espeak_Synth(data, len(data) + 1, 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None):
        sys.exit(f"espeak-ng cannot say {request['text']!r}")
    library.espeak_Synchronize()
    head = rate_hz.to_bytes(4, "little")
    if request["do"] == "speak timed":
        about = json.dumps([rate_hz, words]).encode()
        head = len(about).to_bytes(4, "little") + about
    sys.stdout.buffer.write(head + b"".join(parts))


class _Event(ctypes.Structure):
    """`espeak_EVENT` of espeak-ng's speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        *((name, ctypes.c_int) for name in ("text_position", "length", "audio_position", "sample")),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    ]


class _Voice(ctypes.Structure):
    """`espeak_VOICE` of espeak-ng's speak_lib.h."""

    _fields_ = [
        *((name, ctypes.c_char_p) for name in ("name", "languages", "identifier")),
        *((name, ctypes.c_ubyte) for name in ("gender", "age", "variant", "xx1")),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    ]


def _choose(library: ctypes.CDLL, voice: bytes) -> bool:
    """Take the voice of that name, or else the first of exactly that language (British English, `en-gb`, is named `en`)."""
    if library.espeak_SetVoiceByName(voice) == 0:
        return True
    if library.espeak_SetVoiceByProperties(ctypes.byref(_Voice(languages=voice))):
        return False
    library.espeak_GetCurrentVoice.restype = ctypes.POINTER(_Voice)
    found = library.espeak_GetCurrentVoice().contents
    return bool((found.languages or b"")[1:] == voice)  # the first byte is a priority


def _phonemes(library: ctypes.CDLL, text: str) -> list[str]:
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    left = ctypes.c_char_p(text.encode())
    clauses = []
    while left.value:
        clause = library.espeak_TextToPhonemes(ctypes.byref(left), _CHARS_UTF8, _PHONEMES_IPA)
        clauses.append((clause or b"").decode().strip())
    return [clause for clause in clauses if clause]


if __name__ == "__main__":
    _child()
    sys.stdout.flush()
    os._exit(0)  # without waiting for the library's thread, which may crash on the way out
