"""Some sentences of LJSpeech as its publisher lays them out -> a folder with wavs and a manifest that `prepare` reads."""

import json
import shutil
from pathlib import Path

SPEAKER = "LJ"


def convert(fetched: Path, target: Path) -> None:
    """`fetched` holds metadata.csv (id|as written|numbers spelt out) and wavs/; `target` becomes the corpus folder.

    Each line of manifest.jsonl is {"audio", "id", "text", "speaker"}, `audio` relative to the manifest.
    """
    lines = (fetched / "metadata.csv").read_text(encoding="utf-8").splitlines()
    texts = {name: text for name, text, _spelt_out in (line.split("|") for line in lines if line)}
    wavs = sorted((fetched / "wavs").glob("*.wav"))
    if sorted(texts) != [wav.stem for wav in wavs]:
        raise ValueError(f"{fetched}: {len(texts)} sentences in metadata.csv and {len(wavs)} wavs, not the same ones")
    (target / "wavs").mkdir(parents=True)
    with (target / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
        for wav in wavs:
            shutil.copyfile(wav, target / "wavs" / wav.name)
            line = {"audio": f"wavs/{wav.name}", "id": wav.stem, "text": texts[wav.stem], "speaker": SPEAKER}
            manifest.write(json.dumps(line, ensure_ascii=False) + "\n")
