"""A zoo of bad inputs: each a small file that a folder of recordings from strangers may hold, and what must come of it.

`python -m tests.zoo` writes docs/rejections.md, which lists each reason with the animals that give it.
"""

import contextlib
import gzip
import io
import json
import os
import shutil
import struct
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from schemas import Reason
from schemas import rejection as rejections
from tests.media import RATE_HZ, TEXT, encode, voice

KEPT = "kept"


@dataclass
class Animal:
    """One bad input.

    Attributes:
        verdict: "kept" where a row must come of it; else the reason, of decode where decode says one.
        name: of the file in the zoo's folder. line: more fields of its manifest line.
        source: what its rows and rejections call it, where that is not the path. seconds: in, where that is known.
    """

    verdict: str
    name: str
    line: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    seconds: float | None = None


def build(folder: Path) -> list[Animal]:
    """Make every animal below `folder`, a manifest `zoo.jsonl` of all that are files, and the tars. Returns them all."""
    zoo = _Zoo(folder)
    for group in (zoo.not_audio, zoo.torn, zoo.samples, zoo.formats, zoo.lying, zoo.hostile, zoo.names, zoo.places):
        group()
    in_tars = zoo.tars()
    lines = [{"audio": a.name, "text": TEXT, "language": "en"} | a.line for a in zoo.animals]
    (folder / "zoo.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return zoo.animals + in_tars


class _Zoo:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.animals: list[Animal] = []
        self.voice = voice()
        self.seconds = len(self.voice) / RATE_HZ
        self.whole: dict[str, bytes] = {}
        with tempfile.TemporaryDirectory() as scratch:
            for suffix, codec in [("flac", "flac"), ("wav", "pcm_s16le"), ("mp3", "libmp3lame"), ("m4a", "aac")]:
                # The index of an m4a at its front, as for streaming: at the end, a torn file holds nothing at all.
                options = {"movflags": "+faststart"} if suffix == "m4a" else {}
                encode(Path(scratch) / f"a.{suffix}", self.voice[None], RATE_HZ, codec, options=options)
                self.whole[suffix] = (Path(scratch) / f"a.{suffix}").read_bytes()

    def add(self, verdict: str, name: str, data: bytes | None = None, **more: Any) -> Path:
        self.animals.append(Animal(verdict, name, **more))
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is not None:
            path.write_bytes(data)
        return path

    def sound(self, verdict: str, name: str, samples: np.ndarray, rate_hz: int = RATE_HZ, **more: Any) -> None:
        seconds = more.pop("seconds", len(samples) / rate_hz)
        soundfile.write(self.add(verdict, name, seconds=seconds), samples, rate_hz, **more)

    def not_audio(self) -> None:
        self.add("unreadable", "empty.wav", b"")
        self.add("unreadable", "random.flac", np.random.default_rng(0).bytes(5000))
        self.add("unreadable", "page.mp3", b"<html><body>404 not found</body></html>" * 50)
        self.add("unreadable", "packed.wav", gzip.compress(self.whole["wav"]))
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("bomb.wav", bytes(1 << 24))
        self.add("unreadable", "bomb.zip.wav", buffer.getvalue())
        self.add("no_audio", "header-only.wav", self.whole["wav"][:44].replace(b"LIST", b"data"))
        self.add("no_audio", "zero-data.wav", _wav(b"", 0))
        path = self.add("no_audio", "silent-film.mp4")
        encode(path, np.zeros((1, 0), np.float32), RATE_HZ, "", video=True)

    def torn(self) -> None:
        for suffix, data in self.whole.items():
            for tenth in range(1, 10):
                name = f"torn-{tenth}0.{suffix}"
                # A tenth of the flac is less than its first frame; the last tenth, 0.3 s, is within `decode.short_s`.
                verdict = "unreadable" if suffix == "flac" and tenth == 1 else KEPT if tenth == 9 else "truncated"
                seconds = self.seconds if verdict == "truncated" else None
                self.add(verdict, name, data[: len(data) * tenth // 10], seconds=seconds)
        rotten = bytearray(self.whole["flac"])
        for at in range(len(rotten) // 4, len(rotten), 500):
            rotten[at] ^= 0xFF
        self.add("corrupt", "rotten.flac", bytes(rotten), seconds=self.seconds)
        with tempfile.TemporaryDirectory() as scratch:
            encode(Path(scratch) / "a.m4a", self.voice[None], RATE_HZ, "aac")
            data = (Path(scratch) / "a.m4a").read_bytes()
        self.add("unreadable", "index-lost.m4a", data[: len(data) * 9 // 10])

    def samples(self) -> None:
        bad = self.voice.copy()
        bad[100] = np.nan
        self.sound("not_finite", "nan.wav", bad, subtype="FLOAT")
        bad[100] = np.inf
        self.sound("not_finite", "infinite.wav", bad, subtype="FLOAT")
        self.sound("silent", "silence.wav", np.zeros(3 * RATE_HZ))
        self.sound("unaligned", "dc.wav", np.full(3 * RATE_HZ, 0.5))
        self.sound(KEPT, "clipped.wav", np.clip(self.voice * 2, -1, 1))
        self.sound(KEPT, "dead-channel.wav", np.stack([self.voice, 0 * self.voice], axis=1))
        self.sound("too_short", "50ms.wav", self.voice[8000:8800])
        self.sound(KEPT, "six-channels.wav", np.repeat(self.voice[:, None], 6, axis=1))

    def formats(self) -> None:
        import soxr

        self.add(KEPT, "flac-named.wav", self.whole["flac"], seconds=self.seconds)
        for rate_hz in (8000, 192000):
            self.sound(KEPT, f"{rate_hz}hz.wav", soxr.resample(self.voice, RATE_HZ, rate_hz), rate_hz)
        for subtype in ("PCM_24", "PCM_U8", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610"):
            self.sound(KEPT, f"{subtype.lower()}.wav", self.voice, subtype=subtype)
        for name, codec, rate_hz in [("film.mp4", "aac", RATE_HZ), ("film.mkv", "libopus", 48000)]:
            samples = soxr.resample(self.voice, RATE_HZ, rate_hz)
            encode(self.add(KEPT, name, seconds=self.seconds), samples[None], rate_hz, codec, video=True)
        path = self.add(KEPT, "cover-art.mp3", seconds=self.seconds)
        encode(path, self.voice[None], RATE_HZ, "libmp3lame", cover=True)
        # ID3v2: a size of four bytes of seven bits each; 2 MB of padding.
        tag = b"ID3\x04\x00\x00" + bytes((2 << 20) >> 7 * i & 127 for i in (3, 2, 1, 0)) + bytes(2 << 20)
        self.add(KEPT, "great-id3.mp3", tag + self.whole["mp3"], seconds=self.seconds)
        for name, kind, subtype in [("vorbis.ogg", "OGG", "VORBIS"), ("opus.opus", "OGG", "OPUS")]:
            self.sound(KEPT, name, self.voice, format=kind, subtype=subtype)
        one = (self.folder / "vorbis.ogg").read_bytes()
        self.add(KEPT, "chained.ogg", one + _other_serial(one), seconds=2 * self.seconds)
        buffer = io.BytesIO()
        soundfile.write(buffer, self.voice[::2], RATE_HZ // 2, format="OGG", subtype="VORBIS")
        # FFmpeg reads on in a chain, but not where its rate changes: what comes then is lost, and said to be.
        self.add("truncated", "chained-other-rate.ogg", one + _other_serial(buffer.getvalue()), seconds=self.seconds)
        encode(
            self.add(KEPT, "no-duration.webm", seconds=self.seconds),
            soxr.resample(self.voice, RATE_HZ, 48000)[None],
            48000,
            "libopus",
            container="webm",
            options={"live": "1"},
        )

    def lying(self) -> None:
        pcm = np.round(self.voice * 32767).astype("<i2").tobytes()
        claims_more = _wav(pcm, 3 * len(pcm))
        self.add("truncated", "claims-more.wav", claims_more, seconds=3 * self.seconds)
        self.add(KEPT, "claims-less.wav", _wav(pcm, len(pcm) - 8000), seconds=self.seconds - 0.25)
        self.add(KEPT, "streamed.wav", _wav(pcm, 0xFFFFFFFF), seconds=self.seconds)
        self.add(KEPT, "over-4gb-claimed.wav", _wav(pcm, 0xFFFFFFF0), seconds=self.seconds)
        self.add("truncated", "rf64-claims-more.wav", _rf64(pcm, 4 * len(pcm)), seconds=4 * self.seconds)
        mp3 = bytearray(self.whole["mp3"])
        at = max(mp3.find(b"Xing"), mp3.find(b"Info"))
        frames = struct.unpack(">I", mp3[at + 8 : at + 12])[0]
        for name, count, verdict in [
            ("vbr-claims-more.mp3", 3 * frames, "truncated"),
            ("vbr-claims-less.mp3", 8, KEPT),
        ]:
            mp3[at + 8 : at + 12] = struct.pack(">I", count)
            self.add(verdict, name, bytes(mp3), seconds=None if verdict == KEPT else 3 * self.seconds + 0.18)
        self.add("truncated", "line-claims-a-day.flac", self.whole["flac"], line={"duration": 86400.0}, seconds=86400.0)
        self.add(
            "truncated",
            "line-begins-past-the-end.flac",
            self.whole["flac"],
            line={"offset": 60.0, "duration": 2.0},
            seconds=2.0,
        )
        self.add("no_text", "no-text.flac", self.whole["flac"], line={"text": ""}, seconds=self.seconds)
        self.add("repeats", "loop.flac", self.whole["flac"], line={"text": " ".join([TEXT] * 6)})
        much = f"{TEXT}, ask not what your country can do for you, ask what you can do for your country, and your neighbours"
        self.add("too_fast", "too-much-text.flac", self.whole["flac"], line={"text": much})
        # An hour and a half of digital silence in 200 kB, behind a header that says one second.
        path = self.add("undeclared", "bomb.flac", seconds=5400.0)
        soundfile.write(path, np.zeros(5400 * 8000, np.int16), 8000)
        data = bytearray(path.read_bytes())
        data[21:26] = bytes([data[21] & 0xF0]) + struct.pack(">I", 8000)
        path.write_bytes(data)

    def hostile(self) -> None:
        secret = self.folder / "secret.flac"
        secret.write_bytes(self.whole["flac"])
        self.add("unreadable", "playlist.mp3", f"#EXTM3U\n#EXTINF:3,\nfile:{secret}\n#EXT-X-ENDLIST\n".encode())
        self.add("unreadable", "concat.wav", b"ffconcat version 1.0\nfile secret.flac\n")
        encrypted = self.whole["m4a"].replace(b"mp4a", b"enca").replace(b"esds", b"sinf")
        self.add("unreadable", "encrypted.m4a", encrypted)
        protected = self.whole["m4a"].replace(b"mp4a", b"drms")
        at = protected.index(b"mdat") + 4
        noise = np.random.default_rng(1).bytes(len(protected) - at)
        self.add("unreadable", "protected.m4p.m4a", protected[:at] + noise)
        pcm = np.round(self.voice * 32767).astype("<i2").tobytes()
        self.add("unreadable", "no-rate.wav", _wav(pcm, len(pcm), rate_hz=0))
        self.add("unreadable", "65535-channels.wav", _wav(pcm, len(pcm), channels=65535))
        self.add("unreadable", "no-channels.wav", _wav(pcm, len(pcm), channels=0))

    def names(self) -> None:
        names = [
            "with space.flac",
            "dots.v1.2..flac",
            ".hidden.flac",
            "new\nline.flac",
            "\U0001f3a4 ünï 声.flac",
            "-rf.flac",
        ]
        names += ["http:x.flac", "a:b?c*d[e].flac", "\x1b[31mred\u202egpj.flac", "%s%n{0}.flac", "n" * 250 + ".flac"]
        for name in [*names, os.fsdecode(b"not-utf8-\xff\xfe.flac"), "deep/" * 100 + "down.flac"]:
            self.add(KEPT, name, self.whole["flac"], seconds=self.seconds)

    def places(self) -> None:
        self.add("missing", "absent.wav", line={"duration": 2.5}, seconds=2.5)
        self.add("missing", "nul\0in-name.wav")
        self.animals.append(Animal("missing", "too-long/" * 600 + "x.wav"))
        with tempfile.NamedTemporaryFile(suffix=".flac", delete=False, dir=self.folder.parent) as outside:
            outside.write(self.whole["flac"])
        self.add(KEPT, "link-out.flac", seconds=self.seconds).symlink_to(outside.name)
        self.add("missing", "link-to-nothing.wav").symlink_to(self.folder / "nothing-here.wav")
        self.add("missing", "link-round.wav").symlink_to(self.folder / "link-round.wav")
        self.add("missing", "link-to-zeros.wav").symlink_to("/dev/zero")
        os.mkfifo(self.add("missing", "pipe.wav"))
        self.add("missing", "folder.wav").mkdir()
        as_root = os.geteuid() == 0  # whom no mode stops
        path = self.add(KEPT if as_root else "missing", "unreadable-mode.flac", self.whole["flac"])
        path.chmod(0)

    def tars(self) -> list[Animal]:
        """Tars are sources of their own: `zoo.tar` whole, `torn.tar` broken off, `packed.tar` compressed."""
        flac, side = self.whole["flac"], json.dumps({"text": TEXT, "language": "en"}).encode()
        members = [
            ("plain.flac", flac, KEPT),
            ("plain.json", side, ""),
            ("../../escape.flac", flac, KEPT),
            ("../../escape.json", side, ""),
            ("/absolute.flac", flac, KEPT),
            ("/absolute.json", side, ""),
            ("folder.v1/key.seg1.flac", flac, KEPT),
            ("folder.v1/key.txt", TEXT.encode(), ""),
            ("bad-side.flac", flac, "unreadable"),
            ("bad-side.json", b"{broken", ""),
            ("nested.tar.gz", gzip.compress(b"tar"), "unreadable"),
            ("torn.flac", flac[: len(flac) // 2], "truncated"),
            ("picture.jpg", b"\xff\xd8", ""),
        ]
        animals = []
        with tarfile.open(self.folder / "zoo.tar", "w") as archive:
            for name, data, verdict in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
                if verdict:
                    animals.append(Animal(verdict, f"zoo.tar/{name}", source=f"{self.folder}/zoo.tar/{name}"))
            link = tarfile.TarInfo("link.flac")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
            animals.append(Animal("missing", "zoo.tar/link.flac", source=f"{self.folder}/zoo.tar/link.flac"))
        whole = (self.folder / "zoo.tar").read_bytes()
        (self.folder / "torn.tar").write_bytes(whole[: len(flac) * 3 // 2])
        torn = f"{self.folder}/torn.tar"
        animals += [
            Animal("corrupt", "torn.tar", source=torn),
            Animal(KEPT, "torn.tar/plain.flac", source=f"{torn}/plain.flac"),
        ]
        (self.folder / "packed.tar").write_bytes(gzip.compress(whole))
        animals.append(Animal("unreadable", "packed.tar", source=f"{self.folder}/packed.tar"))
        return animals


def _wav(pcm: bytes, claimed: int, rate_hz: int = RATE_HZ, channels: int = 1) -> bytes:
    """A 16-bit wav whose header claims `claimed` bytes of samples."""
    step = 2 * channels & 0xFFFF
    form = struct.pack("<HHIIHH", 1, channels, rate_hz, rate_hz * step & 0xFFFFFFFF, step, 16)
    riff = min(36 + claimed, 0xFFFFFFFF)
    return b"RIFF" + struct.pack("<I", riff) + b"WAVEfmt \x10\0\0\0" + form + b"data" + struct.pack("<I", claimed) + pcm


def _rf64(pcm: bytes, claimed: int) -> bytes:
    """The same as RF64 (EBU Tech 3306): the sizes of 64 bits stand in a chunk `ds64`."""
    long = struct.pack("<QQQI", 72 + claimed, claimed, claimed // 2, 0)
    body = _wav(pcm, 0xFFFFFFFF)
    return b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<I", len(long)) + long + body[12:]


def _other_serial(ogg: bytes) -> bytes:
    """An Ogg stream under another serial number, its pages' checksums made right (RFC 3533, 6)."""
    made, at = bytearray(ogg), 0
    while (at := made.find(b"OggS", at)) >= 0:
        segments = made[at + 26]
        length = 27 + segments + sum(made[at + 27 : at + 27 + segments])
        made[at + 14 : at + 18] = b"SRL2"
        made[at + 22 : at + 26] = bytes(4)
        made[at + 22 : at + 26] = struct.pack("<I", _ogg_crc(made[at : at + length]))
        at += length
    return bytes(made)


def _ogg_crc(page: bytes) -> int:
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
    return crc


def page(animals: list[Animal]) -> str:
    """docs/rejections.md: each reason, what it means, and the animals of the zoo that give it."""
    examples: dict[str, list[str]] = {}
    for animal in animals:
        name = animal.name if len(animal.name) < 60 else animal.name[:20] + "..."
        if animal.name == "unreadable-mode.flac":
            continue  # for root it is readable
        if not (animal.name.startswith("torn-") and animal.name[5] not in "15"):
            examples.setdefault(animal.verdict, []).append(name)
    return rejections.markdown(examples)


def remove(folder: Path) -> None:
    with contextlib.suppress(OSError):
        shutil.rmtree(folder)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "zoo").mkdir()
        animals = build(Path(scratch) / "zoo")
    assert {animal.verdict for animal in animals} <= {KEPT, *(reason.value for reason in Reason)}
    Path("docs/rejections.md").write_text(page(animals), encoding="utf-8")
