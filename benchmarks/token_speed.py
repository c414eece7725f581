"""What one pass over the audio for several stages, and batches by length, save.

python -m benchmarks.token_speed [CLIPS]
"""

import argparse
import tempfile
import time
from collections.abc import Callable

import numpy as np

from benchmarks.common import clips
from schemas import Block, Utterance, Word
from transforms.batching import map_batches
from transforms.codec.stage import Codec, CodecOptions
from transforms.taste.stage import Taste, TasteOptions
from transforms.units.stage import Units, UnitsOptions
from transforms.units.transformers_ssl import TransformersEncoder
from transforms.whisper_model import encoder_pass, load_whisper


def block_of(count: int) -> Block:
    """Clips of LibriSpeech test-other with their texts; the words' times do not matter to the stages here."""
    spoken = []
    for i, clip in enumerate(clips("librispeech-test-other.jsonl", count)):
        text = clip.line["text"]
        words = [Word(word, 0.0, 0.0, 0.0, "given") for word in text.lower().split()]
        spoken.append(
            Utterance(str(i), -1, 0, len(clip.samples), clip.samples, 16000, text=text, words=words, language="en")
        )
    return Block(0, 16000, utterances=spoken)


def best(act: Callable[[], object], times: int = 3) -> float:
    """Seconds of the fastest of several runs."""
    took = []
    for _ in range(times):
        started = time.perf_counter()
        act()
        took.append(time.perf_counter() - started)
    return min(took)


def main(count: int) -> None:
    import torch

    block = block_of(count)
    seconds = sum(u.duration_s for u in block.utterances)
    print(f"{count} clips, {seconds:.1f} s, {torch.get_num_threads()} thread(s); fastest of three runs")
    stages = [Units(UnitsOptions()), Codec(CodecOptions()), Taste(TasteOptions())]
    for stage in stages:
        stage.setup()
    shared = encoder_pass(load_whisper("whisper-tiny").encoder)

    def run(names: tuple[str, ...]) -> None:
        for stage in stages:
            if stage.name in names:
                stage(block)

    def row(what: str, took: float) -> None:
        print(f"  {what:60s} {took:6.2f} s  {seconds / took:6.0f} x real time")

    both = ("units", "taste")
    wanted, kept = dict(shared._wanted), {}
    for label, how in (("separate passes", {}), ("one shared pass", wanted)):
        shared._wanted = dict(how)

        def fresh(names: tuple[str, ...]) -> None:
            shared._kept.clear()
            shared._bytes = 0
            run(names)

        before = shared.blocks_run
        fresh(both)
        kept[label] = [(u.units.tolist(), u.taste_codes.tolist()) for u in block.utterances]  # type: ignore[union-attr]
        print(f"  {label}: {(shared.blocks_run - before) / count:.1f} encoder layers an utterance")
        row(f"units and TASTE, {label}", best(lambda: fresh(both)))
        row(f"units, codec and TASTE, {label}", best(lambda: fresh(("units", "codec", "taste"))))
    print(f"  same tokens: {kept['separate passes'] == kept['one shared pass']}")
    batching(block, seconds, row)


def batching(block: Block, seconds: float, row: Callable[[str, float], None]) -> None:
    """A layer-norm encoder of HuBERT's shape with four layers of 384, random: one at a time, and in batches by length."""
    import torch
    from transformers import HubertConfig, HubertModel

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        config = HubertConfig(
            hidden_size=384,
            num_hidden_layers=4,
            num_attention_heads=6,
            intermediate_size=1536,
            conv_dim=(128,) * 7,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
        )
        HubertModel(config).save_pretrained(folder)
        encoder = TransformersEncoder(folder, 4)
    encoder.batched = True

    def run(items: int, lengths_sorted: bool = True) -> None:
        if lengths_sorted:
            model = lambda batch: encoder.features([u.samples for u in batch])  # noqa: E731
            map_batches(block, "units", model, lambda u, f: None, max_items=items)
            return
        for i in range(0, len(block.utterances), items):
            encoder.features([u.samples for u in block.utterances[i : i + items]])

    row("SSL encoder, one at a time", best(lambda: run(1), 2))
    row("SSL encoder, batches of 16 by length, padded under a mask", best(lambda: run(16), 2))
    row("SSL encoder, batches of 16 as they come", best(lambda: run(16, False), 2))
    alone = [encoder.features([u.samples])[0] for u in block.utterances[:16]]
    together = encoder.features([u.samples for u in block.utterances[:16]])
    print(f"  largest difference: {max(np.abs(a - b).max() for a, b in zip(alone, together, strict=True)):.1e}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", metavar="CLIPS", type=int, nargs="?", default=60, help="how many (default 60)")
    main(parser.parse_args().clips)
