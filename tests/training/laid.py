"""What the tests of layouts share: a small vocabulary, cards, examples that hypothesis draws, and sequences to read."""

import numpy as np
from hypothesis import strategies as st

from schemas import Latents, Tokenizer
from training.layouts import NAMES, Example, Layout, Vocabulary, make
from training.layouts.base import NOTHING
from training.layouts.dialogue import DialogueLayout, joined
from training.layouts.moshi import MoshiLayout

STARTS, V = 12, 20
# The last id is in no word, like a chat template's.
VOCABULARY = Vocabulary(V, np.arange(V) < STARTS, (np.arange(V) >= STARTS) & (np.arange(V) < V - 1))
LATENTS = Latents("rvq", (0.5, -2.0), (0.25, 4.0))
CARDS = {
    "units": Tokenizer("units", "u", "r", 16000, 640, (30,), "floor"),
    "codec": Tokenizer("codec", "c", "r", 24000, 1920, (10, 10, 10), "ceil", latents=LATENTS),
    "taste": Tokenizer("taste", "t", "r", 16000, 0, (7, 5), "word"),
}


def layout_of(
    name: str, cards: dict[str, Tokenizer] = CARDS, vocabulary: Vocabulary = VOCABULARY, **options: object
) -> Layout:
    return make(NAMES[name].model_validate({"name": name, **options}), vocabulary, cards)


words = st.lists(
    st.tuples(st.integers(0, STARTS - 1), st.lists(st.integers(STARTS, V - 2), max_size=3)).map(
        lambda w: [w[0], *w[1]]
    ),
    max_size=6,
)


@st.composite
def utterances(draw: st.DrawFn, layout: Layout, role: str = "") -> Example:
    """0 to 20 codec frames (1.6 s), units without repeats, and up to six words that begin within 3 s: also after the end of the
    sound, at the same time, and faster than one token a frame.
    """
    said = draw(words)
    starts_s = np.array(sorted(draw(st.lists(st.floats(0, 3), min_size=len(said), max_size=len(said)))))
    ends_s = starts_s + np.array([draw(st.floats(0, 1)) for _ in said])
    runs = draw(st.lists(st.tuples(st.integers(1, 29), st.integers(1, 4)), max_size=20))
    units = np.cumsum([step for step, _ in runs], dtype=np.int64) % 30
    run_lengths = np.array([length for _, length in runs], dtype=np.int64)
    if layout.kind == "taste":
        codes = np.array([[draw(st.integers(0, 6)), draw(st.integers(0, 4))] for _ in said], dtype=np.int64)
        codes = codes.reshape(len(said), 2)
    else:
        n_frames = draw(st.integers(0, 20))
        flat = draw(st.lists(st.integers(0, 9), min_size=3 * n_frames, max_size=3 * n_frames))
        codes = np.array(flat, dtype=np.int64).reshape(3, n_frames)
    latents = np.zeros((0, 2), dtype=np.float16)
    if layout.latent_dim:
        latents = np.arange(2 * codes.shape[1]).reshape(-1, 2).astype(np.float16) * np.float16(draw(st.floats(-9, 9)))
        codes = layout.no_codes()
    if "codec" not in layout.kinds and layout.kind != "taste":
        codes = layout.no_codes()
    if "units" not in layout.kinds:
        units = run_lengths = np.zeros(0, dtype=np.int64)
    row_id = draw(st.text("0123456789abcdef", min_size=4, max_size=4))
    return Example(said, starts_s, codes, row_id, 3.0, ends_s, units, run_lengths, role, latents=latents)


@st.composite
def examples(draw: st.DrawFn, layout: Layout) -> Example:
    """What the layout eats: an utterance, a dialogue, or two speakers on one line of time."""
    if isinstance(layout, MoshiLayout):
        one, other = draw(utterances(layout)), draw(utterances(layout))
        n_frames = max(one.codes.shape[1], other.codes.shape[1])
        codes = np.full((6, n_frames), NOTHING, dtype=np.int64)
        codes[:3, : one.codes.shape[1]] = one.codes
        codes[3:, n_frames - other.codes.shape[1] :] = other.codes
        one.codes = codes
        return one
    if isinstance(layout, DialogueLayout):
        roles = draw(st.lists(st.sampled_from(["user", "assistant"]), min_size=1, max_size=4))
        turns = [draw(utterances(layout, role)) for role in roles]
        whole = joined(turns)
        whole.turns = turns
        return whole
    return draw(utterances(layout))


def speech_ids(layout: Layout, example: Example) -> int:
    """How many units and codes of the example the sequence holds."""
    kept = layout.kept(example)
    return int((kept.codes != NOTHING).sum()) + len(kept.units)


def shown(layout: Layout, ids: np.ndarray, names: dict[int, str] | None = None) -> list[list[str]]:
    """Inputs or labels `[S, R]` as names, row by row: tokens by `names` or number, specials by name, "-" where nothing is."""
    table = []
    for r, row in enumerate(layout.rows):
        known = names or {} if r == 0 else {}
        table.append(
            [
                "-" if i < 0 else row.specials[i - row.size] if i >= row.size else known.get(int(i), str(i))
                for i in ids[:, r]
            ]
        )
    return table


def line(layout: Layout, ids: np.ndarray, names: dict[int, str] | None = None) -> list[str]:
    """A sequence of one stream as names, in order."""
    return [next(name for name in column if name != "-") for column in zip(*shown(layout, ids, names), strict=True)]


def sample(layout: Layout, example: Example, seed: int, max_s: float = 2.0) -> np.ndarray:
    """Inputs `[S, R]` of a model that takes any allowed id, specials as often as tokens."""
    random = np.random.default_rng(seed)

    def draw(row: int, allowed: np.ndarray) -> int:
        assert len(allowed) == layout.rows[row].n_ids
        ids = np.flatnonzero(allowed)
        special = ids[ids >= layout.rows[row].size]
        return int(random.choice(special if len(special) and random.random() < 0.2 else ids))

    prompt = layout.prompt(example, max_s)
    columns = []
    while (column := prompt.next(draw)) is not None:
        columns.append(column.copy())
    return np.stack(columns)
