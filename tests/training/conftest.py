"""A small text LM with a real tokenizer, and small corpora written by the pipeline's own store."""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.store import Store
from schemas import Block, Latents, Tokenizer, Utterance, Word

SENTENCES = [
    "In being comparatively modern.",
    "I like cats, and cats like me.",
    "And so my fellow Americans, ask not what your country can do for you.",
    "Printing differs from most if not from all the arts and crafts.",
    "Yes.",
    "The invention of movable metal letters in the middle of the fifteenth century.",
    "Ask what you can do for your country.",
]
CARDS = {
    "codec": Tokenizer(
        "codec",
        "test-codec",
        "c0ffee",
        16000,
        640,
        (32, 16, 16),
        "ceil",
        latents=Latents("vae", (0.5, -2.0, 0.0), (0.5, 2.0, 1.0), variance=True),
    ),
    "taste": Tokenizer("taste", "test-taste", "7a57e", 16000, 0, (16, 8), "word"),
    "units": Tokenizer("units", "test-units", "5ea", 16000, 640, (24,), "floor"),
}
RATE_HZ = 16000


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So that results do not depend on how many cores there are, and small products are not shared out."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """Real sentences: LJSpeech's where they are at hand, a few of them otherwise."""
    path = Path(__file__).parents[3] / "shared" / "data" / "text" / "ljspeech-sentences.csv"
    if not path.exists():
        return SENTENCES
    with path.open(encoding="utf-8", newline="") as stream:
        return [line[1] for line in csv.reader(stream, delimiter="|", quoting=csv.QUOTE_NONE)][:400]


@pytest.fixture(scope="session")
def trunk(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Path:
    """A folder with a random Llama of 3 layers, width 32, and a byte-level BPE of 400 tokens fitted on real sentences."""
    import tokenizers
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("trunk")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(sentences, tokenizers.trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    PreTrainedTokenizerFast(tokenizer_object=bpe).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def utterance(number: int, sentence: str, cards: dict[str, Tokenizer], split: str) -> Utterance:
    """Real words at 0.35 s each. Codes follow from the words, so that there is something to learn."""
    random = np.random.default_rng(number)
    words = [
        Word(word, round(0.1 + 0.35 * i, 3), round(0.4 + 0.35 * i, 3), 0.9, "given")
        for i, word in enumerate(sentence.split())
    ]
    n_samples = round((0.3 + 0.35 * len(words)) * RATE_HZ)
    samples = random.uniform(-0.1, 0.1, n_samples).astype(np.float32)
    u = Utterance(f"read-{number}.wav", 0, 0, n_samples, samples, RATE_HZ, language="en", text=sentence, words=words)
    u.split = "heldout" if split == "heldout" else "train"
    lengths = np.array([len(word.text) for word in words])
    u.taste_codes = np.stack([lengths % size for size in cards["taste"].sizes], axis=1)
    u.taste_latents = np.outer(lengths, [0.1, -0.25, 3.0]).astype(np.float16)
    frame = np.arange(cards["codec"].n_frames(n_samples))
    u.codec_codes = np.stack([(frame // (2 + k)) % 5 + random.integers(0, 2, frame.shape) for k in range(3)])
    # Latents follow from the codes, around the mean and in the deviation that the card says.
    u.codec_latents = ((u.codec_codes.T - 2) / 2 * [0.5, 2.0, 1.0] + [0.5, -2.0, 0.0]).astype(np.float16)
    u.codec_latent_variance = np.full(u.codec_latents.shape, 1e-4, dtype=np.float16)
    n_frames = cards["units"].n_frames(n_samples) if "units" in cards else 4
    u.units = np.arange(-(-n_frames // 2)) % 5 * 2 + random.integers(0, 2, -(-n_frames // 2))
    u.unit_run_lengths = np.full(len(u.units), 2)
    u.unit_run_lengths[-1] = n_frames - 2 * (len(u.units) - 1)
    return u


@pytest.fixture
def write_corpus(tmp_path: Path, sentences: list[str]) -> Callable[..., Path]:
    """A function that writes a corpus and gives its folder."""

    def write(
        name: str = "corpus",
        n_train: int = 24,
        n_heldout: int = 6,
        per_shard: int = 10,
        cards: dict[str, Tokenizer] | None = None,
        formats: Sequence[str] = ("parquet",),
        first: int = 0,
        first_block: int = 0,
    ) -> Path:
        store = Store(str(tmp_path / name))
        used = CARDS if cards is None else cards
        splits = ["train"] * n_train + ["heldout"] * n_heldout
        # Held-out rows are spread over the shards.
        order = np.random.default_rng(0).permutation(len(splits))
        for number, start in enumerate(range(0, len(order), per_shard)):
            block = Block(first_block + number, RATE_HZ, tokenizers=dict(used))
            for i in order[start : start + per_shard]:
                u = utterance(first + int(i), sentences[(first + int(i)) % len(sentences)], CARDS, splits[i])
                block.utterances.append(u)
                block.samples_in += u.end - u.start
            store.commit(block, "test", formats)
        return tmp_path / name

    return write
