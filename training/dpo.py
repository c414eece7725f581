"""What the training loop needs to know of DPO: where it starts, and what it reads. The loss comes with the batches."""

import hashlib
from pathlib import Path
from typing import Any

from training.checkpoint import Checkpoint, load
from training.options import DpoOptions, TrainOptions
from training.preferences import PairLoader, read_preferences, reference_log_probs


class DpoTask:
    """Preferences in the place of corpora, and a policy in the place of a text LM as the beginning.

    Attributes:
        cards: of the policy's token streams. fingerprints: of the preferences, as of corpora.
    """

    def __init__(self, options: TrainOptions, dpo: DpoOptions) -> None:
        """Raises UserError where there is no such checkpoint or no such file, or the pairs are of another layout."""
        self._options, self._dpo = options, dpo
        self._policy = load(Path(dpo.policy), options.device)
        self._pairs = read_preferences(Path(dpo.preferences), self._policy.layout)
        self.cards = self._policy.cards
        self.fingerprints = (hashlib.sha256(Path(dpo.preferences).read_bytes()).hexdigest(),)

    def begin(self) -> Checkpoint:
        """The policy, with nothing of DPO learnt yet."""
        policy = self._policy
        return Checkpoint(policy.model, policy.text, policy.layout, policy.cards, self._options)

    def loader(self) -> PairLoader:
        """Batches of pairs. To be called before the policy's model is trained: it is the reference."""
        dpo = self._dpo
        reference = reference_log_probs(self._policy.model, self._pairs)
        return PairLoader(self._pairs, reference, dpo.pairs, self._options.seed, dpo.beta, dpo.heldout_share)


def options_for(policy: str, preferences: str, changes: dict[str, Any]) -> TrainOptions:
    """The policy's own options with what differs for DPO (learning rates as slamkit's), and with `changes` to either's fields.

    Raises pydantic's ValidationError.
    """
    own = {name: value for name, value in changes.items() if name in DpoOptions.model_fields}
    rest = {name: value for name, value in changes.items() if name not in own}
    dpo = {"policy": policy, "preferences": preferences} | own
    values = load(Path(policy)).options.model_dump(mode="json")
    return TrainOptions.model_validate(
        values | {"lr": 5e-5, "trunk_lr": 5e-5, "weight_decay": 0.0} | rest | {"dpo": dpo}
    )
