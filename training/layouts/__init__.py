"""Layouts by name: how a row of a corpus becomes a sequence that a language model can learn, and back."""

from collections.abc import Mapping

from schemas import Tokenizer
from schemas.errors import UserError
from training.layouts.base import Example, Layout, LayoutOptions, Parts, Row, Sequence, Vocabulary
from training.layouts.codec import CodecLayout, CodecLayoutOptions
from training.layouts.taste import TasteLayout, TasteLayoutOptions

AnyLayoutOptions = TasteLayoutOptions | CodecLayoutOptions
"""What `train.layout` may be; `name` tells them apart."""

LAYOUTS: dict[type[LayoutOptions], type[Layout]] = {
    TasteLayoutOptions: TasteLayout,
    CodecLayoutOptions: CodecLayout,
}


def make(options: LayoutOptions, vocabulary: Vocabulary, cards: Mapping[str, Tokenizer]) -> Layout:
    """The layout that the options name. Raises UserError, naming the stage to run, where the corpus lacks its stream."""
    layout = LAYOUTS[type(options)]
    for kind in layout.kinds:
        if kind not in cards:
            have = ", ".join(sorted(cards)) or "no token stream at all"
            raise UserError(
                f"layout {layout.name} needs the {kind} stream, and the corpus has {have}: "
                f"prepare it with the section `{kind}` in the config"
            )
    return layout(options, vocabulary, cards)


__all__ = [
    "LAYOUTS",
    "AnyLayoutOptions",
    "CodecLayout",
    "CodecLayoutOptions",
    "Example",
    "Layout",
    "LayoutOptions",
    "Parts",
    "Row",
    "Sequence",
    "TasteLayout",
    "TasteLayoutOptions",
    "Vocabulary",
    "make",
]
