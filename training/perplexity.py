"""What a text LM thinks of a text: the judge of continuations."""

import re
from pathlib import Path
from typing import Any

import torch

from schemas.errors import UserError
from training.model import load_trunk


class TextLm:
    """A Hugging Face causal LM with its own tokenizer, in float32."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        """Raises UserError where the folder holds no causal LM with its tokenizer."""
        from transformers import AutoTokenizer

        self._model = load_trunk(folder).to(device).eval()
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: no tokenizer here: {error}") from None

    @torch.no_grad()
    def nll(self, text: str, prompt: str = "") -> tuple[float, int]:
        """The negative log-likelihood of `text` after `prompt` in nats, and over how many tokens.

        Without a prompt the first token of the text has nothing before it and is not counted.
        """
        before = self._tokenizer.encode(prompt.strip(), add_special_tokens=False) if prompt.strip() else []
        words = text.strip()
        ids = self._tokenizer.encode(f" {words}" if before else words, add_special_tokens=False) if words else []
        start = len(before) or 1
        both = torch.tensor([before + ids], device=self._model.device)
        n = both.shape[1] - start
        if n < 1:
            return 0.0, 0
        logits = self._model(input_ids=both).logits[0, start - 1 : -1].float()
        scores = logits.log_softmax(-1).gather(-1, both[0, start:, None])
        return -float(scores.double().sum()), n


def auto_bleu(text: str, n: int = 2) -> float:
    """The share of a text's n-grams that occur in it more than once, 0 for a text without any.

    Lakhotia et al. 2021 (GSLM, arXiv 2102.01192). Tokens are words and punctuation marks as written.
    """
    tokens = re.findall(r"\w+(?:['’]\w+)*|[^\w\s]", text)
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return sum(grams.count(gram) > 1 for gram in grams) / len(grams) if grams else 0.0
