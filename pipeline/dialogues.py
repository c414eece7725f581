"""Which dialogues are made: the plan of `antiphon dialogues`."""

import hashlib
import json
from typing import Any

from pydantic import Field

from pipeline import files
from pipeline.plan import heldout
from pipeline.sources import SourceError
from schemas import Block, Piece
from transforms.dialogue.speak import Speak, SpeakOptions
from transforms.dialogue.write import Write, WriteOptions
from transforms.options import Options
from transforms.stage import Stage


class DialogueOptions(Options):
    """Synthetic spoken dialogues."""

    file: str | None = None
    """JSONL: `{"id", "turns": [{"role", "text"}]}` to speak as it stands, or `{"id", "prompt"}` for the LLM to go on from."""
    prompts: tuple[str, ...] = ()
    """First turns for the LLM to go on from, beside those of `file`."""
    per_block: int = Field(20, ge=1)
    """Dialogues in a block: one block is one shard."""
    language: str = "en"
    """ISO 639-1 code of what is spoken."""
    write: WriteOptions = WriteOptions()
    speak: SpeakOptions = SpeakOptions()


def plan_dialogues(options: DialogueOptions, *, rate_hz: int, heldout_share: float = 0.0) -> list[Block]:
    """Blocks of dialogues in the order of the file, then of the prompts; each piece is a whole dialogue, still unwritten.

    Raises SourceError with every mistake: no dialogues, a line that is not JSON, has neither turns nor a prompt, or repeats
    an id.
    """
    dialogues = _read(options)
    kept_out = heldout({str(given["dialogue_id"]) for given in dialogues}, heldout_share)
    blocks = []
    for at in range(0, len(dialogues), options.per_block):
        block = Block(at // options.per_block, rate_hz)
        for given in dialogues[at : at + options.per_block]:
            mark = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()
            given |= {"language": options.language, "split": "heldout" if given["dialogue_id"] in kept_out else "train"}
            block.pieces.append(Piece(f"dialogue/{given['dialogue_id']}", "", mark, given=given))
        blocks.append(block)
    return blocks


def _read(options: DialogueOptions) -> list[dict[str, Any]]:
    mistakes: list[str] = []
    found: dict[str, dict[str, Any]] = {}
    if options.file is not None:
        try:
            lines = files.read(options.file).decode("utf-8", errors="replace").splitlines()
        except OSError as error:
            raise SourceError(f"dialogues.file: {options.file}: {error.strerror or error}") from None
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{options.file}:{number}"
            try:
                fields = json.loads(line)
            except ValueError as error:
                mistakes.append(f"{where}: not JSON: {error}")
                continue
            if not isinstance(fields, dict) or not (_turns(fields) or isinstance(fields.get("prompt"), str)):
                mistakes.append(f'{where}: give "turns": [{{"role", "text"}}] or a "prompt"')
                continue
            name = str(fields.get("id") or f"{number:06d}")
            if name in found:
                mistakes.append(f"{where}: the id {name!r} is taken")
            kind = "turns" if "turns" in fields else "prompt"
            found[name] = {"dialogue_id": name, kind: fields[kind]}
    for number, prompt in enumerate(options.prompts):
        found[f"prompt-{number:06d}"] = {"dialogue_id": f"prompt-{number:06d}", "prompt": prompt}
    if not found and not mistakes:
        mistakes.append("no dialogues: give dialogues.file or dialogues.prompts")
    if mistakes:
        raise SourceError("\n".join(mistakes))
    return list(found.values())


def _turns(fields: dict[str, Any]) -> bool:
    turns = fields.get("turns")
    return (
        isinstance(turns, list)
        and bool(turns)
        and all(isinstance(t, dict) and "role" in t and "text" in t for t in turns)
    )


def stages(options: DialogueOptions) -> list[Stage]:
    """What stands in the place of `decode`: write, then speak."""
    needs_model = any("prompt" in dialogue for dialogue in _read(options))
    return [Write(options.write, needs_model), Speak(options.speak)]
