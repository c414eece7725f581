"""Clips that are to be scored, as rows of tokens: decoded or spoken, and through the stages that a checkpoint's layout needs.

The rows are committed to a corpus like any other, so that a run that was stopped goes on, and the next one finds them.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline import files
from pipeline.config import Config
from pipeline.inspect import read_rows
from pipeline.plan import PlanOptions, make_plan
from pipeline.prepare import prepare, token_stages
from pipeline.sources import find_sources
from pipeline.speak import codec_options
from pipeline.store import Store
from schemas import Block, Piece
from schemas.errors import UserError
from schemas.record import STREAMS
from training.checkpoint import Checkpoint
from training.loader import check_cards
from training.reader import Corpus
from transforms.align.stage import Align
from transforms.decode import Decode
from transforms.dialogue.speak import Speak, SpeakOptions
from transforms.segment import Segment
from transforms.stage import Stage
from transforms.transcribe.stage import Transcribe

Words = Literal["none", "given", "asr"]
Row = dict[str, Any]

_BLOCK = 100
"""Sentences in a block: one block is one shard."""


@dataclass(frozen=True)
class Clip:
    """Something that is heard: a sound file, with its words where they are known, or words that a TTS has to say."""

    text: str = ""
    audio: Path | None = None


@dataclass(frozen=True)
class Heard:
    """The row of each clip that has one, and why another has none."""

    rows: dict[Clip, Row]
    lost: dict[Clip, str]


def hear(
    run: Checkpoint,
    clips: Sequence[Clip],
    folder: Path,
    *,
    words: Words,
    language: str,
    voice: SpeakOptions,
    config: Config,
    say: Callable[[str], None],
) -> Heard:
    """Rows of distinct `clips` with the columns of the checkpoint's layout, made in corpora under `folder` or found there.

    Args:
        words: what a row's words are: none; the clip's own; or what the recogniser of `config` hears.
        config: whose stages make the tokens. They must be those that the checkpoint was trained on.

    Raises UserError where they are not, and what `prepare` raises.
    """
    rows: dict[Clip, Row] = {}
    lost: dict[Clip, str] = {}
    settings = _settings(run, config, words, language)
    for name, members in (
        ("recorded", [clip for clip in clips if clip.audio]),
        ("spoken", [clip for clip in clips if not clip.audio]),
    ):
        if not members:
            continue
        at = folder / name
        blocks = (
            _recorded(members, at, language, settings) if name == "recorded" else _spoken(members, language, settings)
        )
        first: list[Stage] = [Decode(settings.decode)] if name == "recorded" else [Speak(voice)]
        prepare(settings, blocks, [*first, *_stages(run, settings, words)], str(at), say=say)
        reasons = _reasons(at)
        found: dict[str, list[Row]] = {}
        corpus = Corpus(at)
        if corpus.shards:
            check_cards(run.layout, run.cards, corpus.cards, run.path)
        for row in corpus.rows(columns={*run.layout.columns, "source"}):
            found.setdefault(row["source"], []).append(row)
        for i, clip in enumerate(members):
            there = found.get(f"{i:06d}", [])
            if len(there) == 1:
                rows[clip] = there[0]
            else:
                longer = f"longer than {settings.segment.max_s:.0f} s" if there else "not there"
                lost[clip] = reasons.get(f"{i:06d}", longer)
    return Heard(rows, lost)


def _settings(run: Checkpoint, config: Config, words: Words, language: str) -> Config:
    """The config, so that every clip is one utterance and none is turned away for what it says."""
    changes: dict[str, Any] = {
        "segment": config.segment.model_copy(update={"backend": "none", "min_s": 0.0, "silence_db": -200.0}),
        "transcribe": config.transcribe.model_copy(
            update={"backend": "given"} if words == "given" else {"language": language, "keep_given": False}
        ),
        "plan": PlanOptions(heldout_share=0.0),
        "write": config.write.model_copy(update={"formats": ("parquet",)}),
    }
    kinds = [kind for kind, column in STREAMS.items() if column in run.layout.columns]
    if "codec" in kinds:
        changes["codec"] = codec_options(run.cards["codec"])
    for kind in kinds:
        if changes.get(kind, getattr(config, kind)) is None:
            raise UserError(f"layout {run.layout.name} needs the {kind} stream, and the config has no section `{kind}`")
    return config.model_copy(update=changes | {kind: None for kind in STREAMS if kind not in kinds})


def _stages(run: Checkpoint, config: Config, words: Words) -> list[Stage]:
    stages: list[Stage] = [Segment(config.segment, texts_given=words == "given")]
    if words != "none":
        stages += [Transcribe(config.transcribe), Align(config.align)]
    return stages + token_stages(config)


def _recorded(clips: Sequence[Clip], folder: Path, language: str, config: Config) -> list[Block]:
    lines = [
        json.dumps({"audio": str(clip.audio.absolute()), "id": f"{i:06d}", "text": clip.text, "language": language})
        for i, clip in enumerate(clips)
        if clip.audio
    ]
    manifest = str(folder.with_name(f"{folder.name}.jsonl"))
    files.write(manifest, "".join(f"{line}\n" for line in lines).encode())
    entries = find_sources([manifest])
    return make_plan(entries, config.plan, rate_hz=config.decode.rate_hz, timeout_s=config.decode.timeout_s)


def _spoken(clips: Sequence[Clip], language: str, config: Config) -> list[Block]:
    blocks = []
    for at in range(0, len(clips), _BLOCK):
        block = Block(at // _BLOCK, config.decode.rate_hz)
        for i, clip in enumerate(clips[at : at + _BLOCK], at):
            given = {"text": clip.text, "role": "assistant", "language": language, "origin": "tts", "split": "train"}
            block.pieces.append(Piece(f"{i:06d}", "", hashlib.sha256(clip.text.encode()).hexdigest(), given=given))
        blocks.append(block)
    return blocks


def _reasons(corpus: Path) -> dict[str, str]:
    """source -> why something of it was rejected."""
    if not any(c.rejections for c in Store(str(corpus)).commits().values()):
        return {}
    return {row["source"]: f"{row['reason']}: {row['detail']}" for row in read_rows(str(corpus), "rejected")}
