"""Dialogues as text: given turns passed on, missing ones written by a causal LM."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from schemas import Block, Piece, Reason, Rejection
from transforms.batching import is_out_of_memory
from transforms.options import Options
from transforms.stage import Stage
from transforms.weights import locate

_ROLES = ("user", "assistant")
# As in InstructS2S (LLaMA-Omni, arXiv 2409.06666, section 3): short, sayable, no lists, nothing in brackets.
_SYSTEM = {
    "assistant": "You are talking on the telephone. Answer in one or two short spoken sentences, without lists or brackets.",
    "user": "You are a curious person on the telephone. Reply with one short question about what you just heard.",
}


class WriteOptions(Options):
    """The text LLM that writes what a dialogue lacks."""

    model: str = "smollm2-135m-instruct"
    """Any Hugging Face causal LM with a chat template: a name or a folder."""
    turns: int = Field(2, ge=2)
    """Turns of a dialogue that starts from a prompt: user, assistant, user ... The prompt is the first."""
    max_new_tokens: int = Field(60, ge=1)
    """Of one turn."""
    temperature: float = Field(0.7, gt=0)
    """Of sampling."""
    top_p: float = Field(0.9, gt=0, le=1)
    """Of sampling."""


class Write(Stage):
    """Turns each piece that holds a dialogue (`given["turns"]` or `given["prompt"]`) into one piece a turn."""

    name = "write"

    def __init__(self, options: WriteOptions, needs_model: bool) -> None:
        super().__init__(options)
        self._options = options
        self._needs_model = needs_model

    def setup(self) -> None:
        """Raises MissingWeights where dialogues start from prompts and the LLM is not on this machine."""
        if self._needs_model:
            from transformers import AutoModelForCausalLM, AutoTokenizer
            from transformers.utils import logging

            logging.disable_progress_bar()
            folder = locate(self._options.model).path
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            self._model = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, dtype="float32"
            ).eval()

    def weights(self) -> dict[str, str]:
        return {self._options.model: locate(self._options.model).sha256} if self._needs_model else {}

    def __call__(self, block: Block) -> Block:
        pieces: list[Piece] = []
        for piece in block.pieces:
            try:
                turns = piece.given.get("turns") or self._write(
                    str(piece.given["prompt"]), str(piece.given["dialogue_id"])
                )
            except Exception as error:  # one dialogue, not the run
                reason = Reason.OUT_OF_MEMORY if is_out_of_memory(error) else Reason.FAILED
                detail = f"{type(error).__name__}: {error}"[:500]
                block.rejections.append(Rejection(piece.source, -1, 0.0, 0.0, self.name, reason, detail))
                continue
            pieces += [_turn(piece, number, turn) for number, turn in enumerate(turns)]
        block.pieces = pieces
        return block

    def _write(self, prompt: str, dialogue_id: str) -> list[dict[str, str]]:
        """The turns of a dialogue that begins with `prompt`: a function of both and of the options alone."""
        turns = [{"role": "user", "text": prompt}]
        while len(turns) < self._options.turns:
            role = _ROLES[len(turns) % 2]
            text = speakable(self._say(turns, role, dialogue_id))
            if not text:
                break
            turns.append({"role": role, "text": text})
        return turns

    def _say(self, turns: Sequence[dict[str, str]], role: str, dialogue_id: str) -> str:
        """One turn in `role`. The LLM is always the assistant of its own template, so for the user the roles are swapped."""
        import hashlib

        import torch

        said = [{"role": "assistant" if t["role"] == role else "user", "content": t["text"]} for t in turns]
        chat = [{"role": "system", "content": _SYSTEM[role]}, *(said if said[0]["role"] == "user" else said[1:])]
        inputs = self._tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        seed = int(hashlib.sha256(f"{dialogue_id}\n{len(turns)}".encode()).hexdigest()[:8], 16)
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            torch.manual_seed(seed)
            written = self._model.generate(
                **inputs,
                max_new_tokens=self._options.max_new_tokens,
                do_sample=True,
                temperature=self._options.temperature,
                top_p=self._options.top_p,
                pad_token_id=self._tokenizer.eos_token_id,
            )
        return str(self._tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def _turn(dialogue: Piece, number: int, turn: dict[str, Any]) -> Piece:
    given = {k: v for k, v in dialogue.given.items() if k not in ("turns", "prompt")}
    given |= {"turn": number, "role": str(turn["role"]), "text": speakable(str(turn["text"])), "origin": "tts"}
    given["group_id"] = dialogue.source
    return Piece(f"{dialogue.source}#{number}", "", dialogue.fingerprint, given=given)


def speakable(text: str) -> str:
    """Text as one would say it: no markup, links, brackets, list marks, emoji or line breaks; up to its last whole sentence.

    What is left is the empty string where there was nothing to say.
    """
    text = re.sub(r"```.*?(```|$)|https?://\S+|<[^>]*>|\([^)]*\)|\[[^\]]*\]|\{[^}]*\}", " ", text, flags=re.DOTALL)
    text = re.sub(r"(?m)^\s*(?:[-*•#>]+|\d+[.)])\s+", "", text)
    text = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text)
    text = "".join(c for c in text if unicodedata.category(c) not in ("So", "Sk", "Cs") and c not in '*_`#|~<>[]{}()"')
    text = " ".join(text.split())
    whole = re.match(r".*[.!?](?=\s|$)", text)
    text = whole.group() if whole else text
    return text if any(c.isalnum() for c in text) else ""
