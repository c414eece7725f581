"""Media files made for tests: encoders, and a few seconds of real speech (voice-like sound where ../shared is absent)."""

from pathlib import Path

import av
import numpy as np
import soundfile

from tests.conftest import SHARED

TEXT = "And so my fellow Americans"
RATE_HZ = 16000


def voice() -> np.ndarray:
    """float32 `[n]` at 16 kHz: the first 2.9 s of a recorded speech, in which `TEXT` is said; else a gliding buzz."""
    path = SHARED / "data" / "jfk.flac"
    if path.exists():
        import soxr

        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        made: np.ndarray = soxr.resample(samples.mean(axis=1), rate_hz, RATE_HZ)[: int(2.9 * RATE_HZ)]
        return made
    t = np.arange(int(2.9 * RATE_HZ)) / RATE_HZ
    pitch = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * t)) / RATE_HZ
    buzz = sum(np.sin(k * pitch) / k for k in range(1, 20)) * np.clip(np.sin(2 * np.pi * 3 * t), 0, 1)
    return (0.2 * buzz).astype(np.float32)


def encode(
    path: Path,
    samples: np.ndarray,
    rate_hz: int,
    codec: str,
    *,
    video: bool = False,
    container: str | None = None,
    options: dict[str, str] | None = None,
    cover: bool = False,
) -> None:
    """Write float32 `[channels, n]` with PyAV; with a picture track where `video`, an attached picture where `cover`."""
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(samples)]
    with av.open(str(path), "w", format=container, options=options or {}) as output:
        picture = output.add_stream("mpeg4" if video else "png", rate=5) if video or cover else None
        if picture is not None:
            picture.width = picture.height = 32
            picture.pix_fmt = "yuv420p" if video else "rgb24"
        stream = output.add_stream(codec, rate=rate_hz, layout=layout) if codec else None
        if picture is not None:
            if cover:
                picture.disposition = av.stream.Disposition.attached_pic
            for _ in range(5 if video else 1):
                output.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
            output.mux(picture.encode())
        if stream is not None:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
            frame.sample_rate = rate_hz
            converter = av.AudioResampler(
                stream.format, stream.layout, stream.rate, frame_size=stream.frame_size or 1024
            )
            for piece in [*converter.resample(frame), *converter.resample(None)]:
                output.mux(stream.encode(piece))
            output.mux(stream.encode())
