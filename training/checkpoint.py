"""Checkpoints: self-contained folders, written under a temporary name and renamed when complete.

out/checkpoints/step-000200/
  config.json         layout, trunk's config, tokenizers' cards, the run's options
  model.safetensors   all weights
  tokenizer/          the trunk's text tokenizer
  units-bpe.json      the merges of units, where the layout has them; config.json has their hash
  progress.json       step, place in the data, what the data were
  state.pt            optimizer and random states (read with `weights_only`)
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from transformers import AutoTokenizer

from schemas import Tokenizer
from schemas.errors import UserError
from training.distributed import ALONE, Ranks, as_sharded, whole
from training.layouts import Layout, make
from training.layouts.merged import MergedLayout
from training.layouts.units import UnitLayoutOptions
from training.mixing import Place
from training.model import HybridLM, empty_trunk
from training.options import TrainOptions
from training.saving import saving, sync
from training.text import Text

FORMAT = 1
"""Raised when a checkpoint changes its form; later ones are refused."""

_TEMPORARY = ".tmp-"
_MERGES = "units-bpe.json"


@dataclass(frozen=True)
class Progress:
    """How far a run is: steps done, the next batch, the fingerprint of each corpus, and totals so far."""

    step: int = 0
    position: Place = field(default_factory=Place)
    corpora: tuple[str, ...] = ()
    tokens: int = 0
    audio_s: float = 0.0

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Progress":
        position = Place.from_json(fields["position"])
        return cls(**(fields | {"position": position, "corpora": tuple(fields["corpora"])}))


@dataclass
class Checkpoint:
    """A run as it is in memory, and as it is saved."""

    model: HybridLM
    text: Text
    layout: Layout
    cards: dict[str, Tokenizer]
    options: TrainOptions
    progress: Progress = field(default_factory=Progress)
    path: Path | None = None


def newest(out: Path) -> Path | None:
    """The folder of the last complete checkpoint under `out`, or `out` itself if it is one; None where there is none."""
    if (out / "config.json").exists() and (out / "model.safetensors").exists():
        return out
    found = sorted((out / "checkpoints").glob("step-*"))
    return found[-1] if found else None


def save(out: Path, checkpoint: Checkpoint, optimizer: torch.optim.Optimizer, ranks: Ranks = ALONE) -> Path:
    """Write a checkpoint under `out`, drop those beyond `options.keep`, and return its folder.

    All processes must call it; the first one writes. What is written does not depend on how many there are.

    Raises NotSaved, and leaves the checkpoints that there were, where it cannot be written.
    """
    folder = out / "checkpoints" / f"step-{checkpoint.progress.step:06d}"
    temporary = folder.with_name(f"{_TEMPORARY}{folder.name}")
    sharded = ranks.size > 1 and checkpoint.options.parallel == "fsdp"
    weights = whole(checkpoint.model.state_dict()) if sharded else None
    state = whole(optimizer.state_dict()) if sharded else optimizer.state_dict()
    if ranks.rank > 0:
        ranks.wait()
        return folder
    try:
        with saving(folder):
            sweep(out)
            _write(temporary, checkpoint, weights, state)
            os.replace(temporary, folder)
            sync(folder.parent)
            for old in sorted(folder.parent.glob("step-*"))[: -checkpoint.options.keep]:
                # Renamed first, so that nothing half deleted has a checkpoint's name.
                os.replace(old, old.with_name(f"{_TEMPORARY}old-{old.name}"))
            sweep(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    ranks.wait()
    return folder


def sweep(out: Path) -> None:
    """Remove what killed runs left among the checkpoints under `out`."""
    for left in (out / "checkpoints").glob(f"{_TEMPORARY}*"):
        shutil.rmtree(left)


def _write(folder: Path, checkpoint: Checkpoint, weights: dict[str, Any] | None, state: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    config: dict[str, Any] = {
        "format": FORMAT,
        "trunk": checkpoint.model.trunk.config.to_dict(),
        "tokenizers": {kind: card.as_json() for kind, card in sorted(checkpoint.cards.items())},
        "options": checkpoint.options.model_dump(mode="json"),
    }
    if isinstance(checkpoint.layout, MergedLayout):
        config["merges"] = checkpoint.layout.bpe.sha256
        checkpoint.layout.bpe.save(folder / _MERGES)
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", "utf-8")
    (folder / "progress.json").write_text(json.dumps(asdict(checkpoint.progress), indent=1) + "\n", "utf-8")
    checkpoint.text.tokenizer.save_pretrained(folder / "tokenizer")
    if weights is None:
        safetensors.torch.save_model(checkpoint.model, str(folder / "model.safetensors"))
    else:
        # Each tied weight once, as `save_model` does.
        model = checkpoint.model
        again = {n for n, _ in model.named_parameters(remove_duplicate=False)} - {
            n for n, _ in model.named_parameters()
        }
        copies = {name: weight.contiguous() for name, weight in weights.items() if name not in again}
        safetensors.torch.save_file(copies, str(folder / "model.safetensors"))
    random = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}
    torch.save({"optimizer": state, "random": random}, folder / "state.pt")
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def load(path: Path, device: str = "cpu") -> Checkpoint:
    """The newest checkpoint under `path`, or the one at it. Raises UserError where there is none that can be read."""
    folder = newest(path)
    if folder is None:
        raise UserError(f"{path}: no checkpoint here; `antiphon train` writes them to its --out folder")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    if config["format"] > FORMAT:
        raise UserError(
            f"{folder}: checkpoint format {config['format']}, and this antiphon reads up to {FORMAT}: update it"
        )
    options = TrainOptions.model_validate(config["options"])
    cards = {kind: Tokenizer.from_json(card) for kind, card in config["tokenizers"].items()}
    trunk = empty_trunk(config["trunk"])
    text = Text(
        AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True, trust_remote_code=False),
        trunk.config.vocab_size,
    )
    layout = _layout(folder, options, text, cards)
    if isinstance(layout, MergedLayout) and layout.bpe.sha256 != config["merges"]:
        raise UserError(f"{folder / _MERGES}: not the merges that the model was trained on (its hash is another)")
    model = build(trunk, layout, options)
    safetensors.torch.load_model(model, folder / "model.safetensors")
    progress = Progress.from_json(json.loads((folder / "progress.json").read_text("utf-8")))
    return Checkpoint(model.to(device).eval(), text, layout, cards, options, progress, folder)


def _layout(folder: Path, options: TrainOptions, text: Text, cards: dict[str, Tokenizer]) -> Layout:
    """The layout as it was trained on: merges are those in the checkpoint, whatever became of the file they came from."""
    chosen = options.layout
    if isinstance(chosen, UnitLayoutOptions) and chosen.bpe:
        chosen = chosen.model_copy(update={"bpe": str(folder / _MERGES)})
    return make(chosen, text.vocabulary, cards)


def load_state(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Put the optimizer's and the random generators' states back as they were saved."""
    state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
    saved = state["optimizer"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, values in saved["state"].items():
        for name, value in values.items():
            values[name] = as_sharded(value, parameters[number])
    optimizer.load_state_dict(saved)
    torch.set_rng_state(state["random"]["cpu"])
    if torch.cuda.is_available() and state["random"]["cuda"]:
        torch.cuda.set_rng_state_all(state["random"]["cuda"])


def build(trunk: Any, layout: Layout, options: TrainOptions) -> HybridLM:
    """The model of a layout on a trunk, what is added to the trunk freshly initialised."""
    loss = options.loss.resolved(options.layout)
    assert loss.text_weight is not None
    assert loss.speech_weight is not None
    return HybridLM(
        trunk,
        layout.rows,
        loss.text_weight,
        loss.speech_weight,
        options.seed,
        options.model,
        loss.text_kl or 0.0,
        keep_base=options.trunk_lr > 0,
        upsample=layout.upsample,
        latent_dim=layout.latent_dim,
        causal=not layout.in_place,
    )
