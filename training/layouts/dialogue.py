"""Rows that belong together: the turns of a dialogue."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from training.layouts.base import Example, Layout

COLUMNS = ("dialogue_id", "turn", "role", "channel", "group_id", "start_s")
"""What tells which rows belong together, and in which order."""

Encode = Callable[[list[str]], list[list[int]]]


def grouped(rows: Iterable[dict[str, Any]], key: Callable[[dict[str, Any]], Any]) -> list[list[dict[str, Any]]]:
    """Rows with the same key, in the order in which keys first come; rows of a key by turn, then by time."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return [sorted(group, key=lambda row: (row["turn"], row["start_s"])) for group in groups.values()]


def joined(parts: list[Example], role: str = "") -> Example:
    """Examples said one after the other, as one: words, codes and units follow each other, and so do times."""
    offsets = np.cumsum([0.0, *(part.audio_s for part in parts)])
    return Example(
        words=[word for part in parts for word in part.words],
        starts_s=np.concatenate([part.starts_s + at for part, at in zip(parts, offsets, strict=False)]),
        codes=np.concatenate([part.codes for part in parts], axis=1),
        id=parts[0].id,
        audio_s=float(offsets[-1]),
        ends_s=np.concatenate([part.ends_s + at for part, at in zip(parts, offsets, strict=False)]),
        units=np.concatenate([part.units for part in parts]),
        run_lengths=np.concatenate([part.run_lengths for part in parts]),
        role=role,
    )


class DialogueLayout(Layout):
    """A layout of whole dialogues: an example has `turns`, each with its `role`."""

    needs_dialogue = True
    """Whether a row outside a dialogue is refused, or is a dialogue of one turn."""

    @property
    def columns(self) -> tuple[str, ...]:
        return (*super().columns, *COLUMNS)

    def examples(self, rows: Iterable[dict[str, Any]], encode: Encode) -> Iterator[Example]:
        for dialogue in grouped(rows, lambda row: row["dialogue_id"] or f"row {row['id']}"):
            yield self.conversation(dialogue, encode)

    def conversation(self, rows: list[dict[str, Any]], encode: Encode) -> Example:
        """The example of a dialogue's rows. Raises ValueError where they are of none, and the layout needs one."""
        if self.needs_dialogue and not rows[0]["dialogue_id"]:
            raise ValueError(
                f"row {rows[0]['id']} is in no dialogue, which layout {self.name} needs: make the corpus with `antiphon dialogues`"
            )
        turns: list[list[dict[str, Any]]] = []
        for row in rows:
            # A turn with a pause in it may be several rows.
            if not turns or (row["turn"], row["role"]) != (turns[-1][0]["turn"], turns[-1][0]["role"]):
                turns.append([])
            turns[-1].append(row)
        made = [joined([self.example(row, encode) for row in turn], turn[0]["role"]) for turn in turns]
        whole = joined(made)
        whole.turns = made
        return whole
