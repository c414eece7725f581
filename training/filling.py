"""What a model of an in-place layout makes of speech whose first codebooks there are: the further ones, one pass each (VALL-E)."""

import numpy as np
import torch

from schemas.errors import UserError
from training.checkpoint import Checkpoint
from training.layouts.base import NOTHING, Sequence
from training.layouts.nar import NarLayout
from training.loader import check_cards
from training.packing import Piece, collate


@torch.no_grad()
def fill(filler: Checkpoint, words: list[list[int]], codes: np.ndarray, prompt: np.ndarray) -> np.ndarray:
    """The codes of all codebooks, `[K, T]`, the likeliest each (VALL-E's choice).

    Args:
        words: text ids of what is said in all T frames, by the filler's own tokenizer.
        codes: `[k, T]`, the codebooks that there are, the prompt's frames among them.
        prompt: `[K, P]`, all codebooks of the first P frames.

    Raises UserError where the filler is of another layout.
    """
    layout = filler.layout
    if not isinstance(layout, NarLayout):
        raise UserError(
            f"{filler.path}: layout {layout.name} fills no codebooks; train one with `layout.name: valle-nar`"
        )
    n_known, n_prompt = len(codes), prompt.shape[1]
    found = np.full((layout.n_codebooks, codes.shape[1]), NOTHING, dtype=np.int64)
    found[:n_known] = codes[: layout.n_codebooks]
    found[:, :n_prompt] = prompt[: layout.n_codebooks]
    if n_prompt == found.shape[1]:
        return found
    for k in range(n_known, layout.n_codebooks):
        inputs, labels = layout.stage(words, found, k, n_prompt)
        laid = Sequence(inputs, labels, np.zeros(labels.shape, np.float32))
        hidden = filler.model.batch_hidden(collate([[Piece(laid, 0, len(inputs))]], len(inputs)))[
            0, n_prompt - found.shape[1] :
        ]
        found[k, n_prompt:] = filler.model.speech_logits(hidden)[k].argmax(-1).cpu().numpy()
    return found


def check_filler(filler: Checkpoint, speaker: Checkpoint) -> None:
    """Raise UserError unless the filler goes on with the codes that the speaker says."""
    if "codec" not in speaker.layout.kinds or speaker.layout.latent_dim or not isinstance(filler.layout, NarLayout):
        raise UserError(
            f"{filler.path}, layout {filler.layout.name}, has nothing to fill of what {speaker.path}, layout "
            f"{speaker.layout.name}, says: let a model of layout vall-e speak, and one of layout valle-nar fill"
        )
    check_cards(filler.layout, filler.cards, speaker.cards, speaker.path)
