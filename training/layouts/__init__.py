"""Layouts by name: how a row of a corpus becomes a sequence that a language model can learn, and back."""

from collections.abc import Mapping
from typing import get_args

from schemas import Tokenizer
from schemas.errors import UserError
from training.layouts.base import Example, Layout, LayoutOptions, Parts, Row, Sequence, Vocabulary
from training.layouts.chain import ChainLayout, ChainLayoutOptions
from training.layouts.chunks import ChunkLayout, ChunkLayoutOptions
from training.layouts.codec import CodecLayout, CodecLayoutOptions
from training.layouts.csm import CsmLayout, CsmLayoutOptions
from training.layouts.ctc import CtcLayout, CtcLayoutOptions
from training.layouts.groups import GroupLayout, GroupLayoutOptions
from training.layouts.interleave import InterleaveLayout, InterleaveLayoutOptions
from training.layouts.latents import LatentsLayout, LatentsLayoutOptions
from training.layouts.merged import merged
from training.layouts.moshi import MoshiLayout, MoshiLayoutOptions
from training.layouts.nar import NarLayout, NarLayoutOptions
from training.layouts.orders import DelayLayout, DelayLayoutOptions, FlatLayout, FlatLayoutOptions
from training.layouts.pairs import AudioLMLayout, AudioLMLayoutOptions, StepLayout, StepLayoutOptions
from training.layouts.plain import TextLayout, TextLayoutOptions, UnitsLayout, UnitsLayoutOptions
from training.layouts.rows import KimiLayout, KimiLayoutOptions, MiniOmniLayout, MiniOmniLayoutOptions
from training.layouts.taste import TasteLayout, TasteLayoutOptions
from training.layouts.text_speech import TextSpeechLayout, TextSpeechLayoutOptions
from training.layouts.units import UnitLayout, UnitLayoutOptions

AnyLayoutOptions = (
    TasteLayoutOptions
    | CodecLayoutOptions
    | MoshiLayoutOptions
    | TextLayoutOptions
    | UnitsLayoutOptions
    | TextSpeechLayoutOptions
    | ChainLayoutOptions
    | InterleaveLayoutOptions
    | ChunkLayoutOptions
    | StepLayoutOptions
    | CtcLayoutOptions
    | MiniOmniLayoutOptions
    | KimiLayoutOptions
    | GroupLayoutOptions
    | CsmLayoutOptions
    | DelayLayoutOptions
    | FlatLayoutOptions
    | NarLayoutOptions
    | AudioLMLayoutOptions
    | LatentsLayoutOptions
)
"""What `train.layout` may be; `name` tells them apart."""

LAYOUTS: dict[type[LayoutOptions], type[Layout]] = {
    TasteLayoutOptions: TasteLayout,
    CodecLayoutOptions: CodecLayout,
    MoshiLayoutOptions: MoshiLayout,
    TextLayoutOptions: TextLayout,
    UnitsLayoutOptions: UnitsLayout,
    TextSpeechLayoutOptions: TextSpeechLayout,
    ChainLayoutOptions: ChainLayout,
    InterleaveLayoutOptions: InterleaveLayout,
    ChunkLayoutOptions: ChunkLayout,
    StepLayoutOptions: StepLayout,
    CtcLayoutOptions: CtcLayout,
    MiniOmniLayoutOptions: MiniOmniLayout,
    KimiLayoutOptions: KimiLayout,
    GroupLayoutOptions: GroupLayout,
    CsmLayoutOptions: CsmLayout,
    DelayLayoutOptions: DelayLayout,
    FlatLayoutOptions: FlatLayout,
    NarLayoutOptions: NarLayout,
    AudioLMLayoutOptions: AudioLMLayout,
    LatentsLayoutOptions: LatentsLayout,
}

NAMES: dict[str, type[LayoutOptions]] = {
    name: options for options in LAYOUTS for name in get_args(options.model_fields["name"].annotation)
}
"""Every layout's name, and the class of its options."""


def make(options: LayoutOptions, vocabulary: Vocabulary, cards: Mapping[str, Tokenizer]) -> Layout:
    """The layout that the options name, on merged units where they say so.

    Raises UserError where the corpus lacks its stream, naming the stage to run, or the merges are not of its units.
    """
    layout = LAYOUTS[type(options)]
    for kind in layout.kinds:
        if kind not in cards:
            have = ", ".join(sorted(cards)) or "no token stream at all"
            raise UserError(
                f"layout {options.name} needs the {kind} stream, and the corpus has {have}: "
                f"prepare it with the section `{kind}` in the config"
            )
        if not cards[kind].sizes and layout is not LatentsLayout:
            raise UserError(
                f"layout {options.name} needs codes, and {cards[kind].name} gives latents alone: layout latents"
            )
    if isinstance(options, UnitLayoutOptions) and options.bpe:
        assert issubclass(layout, UnitLayout)
        return merged(layout, options, vocabulary, cards)
    return layout(options, vocabulary, cards)


__all__ = [
    "LAYOUTS",
    "NAMES",
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
