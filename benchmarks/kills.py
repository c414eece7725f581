"""Kill `antiphon prepare` and `antiphon train` at random instants, start them again, and compare with runs nobody disturbed.

python -m benchmarks.kills [--kills 200] [--seed 0] [--jobs given whisper train] [--work FOLDER]

Each kill is SIGKILL to the whole process group at an instant drawn uniformly over the time that an undisturbed run takes, so
that start-up, models, commits and the end all get their share. A run that ends before its instant is compared, file by file,
with the undisturbed one, and the next starts from nothing. Exits 1 where anything differs.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.common import DATA, clips, machine, table
from pipeline.verify import verify

ROOT = Path(__file__).resolve().parent.parent

_CHILD = "import sys; from benchmarks.kills import traced; sys.exit(traced(sys.argv[1], sys.argv[2:]))"


def traced(trace: str, arguments: Sequence[str]) -> int:
    """`antiphon`, with a line in the file `trace` for each block that is begun."""
    from pipeline.cli import main as antiphon
    from schemas import Block
    from transforms.decode import Decode

    begin = Decode.__call__

    def call(self: Decode, block: Block) -> Block:
        with open(trace, "a") as stream:
            stream.write(f"{block.name}\n")
        return begin(self, block)

    Decode.__call__ = call  # type: ignore[method-assign]
    return antiphon(arguments)


@dataclass
class Tally:
    """What happened: counts over all kills.

    Attributes:
        before_work, at_work: kills before any block (or step) was begun in that run, and after.
        again: blocks (steps) done again because of kills; most_again: after one kill.
        redone: committed blocks that were begun again, which must not be.
    """

    kills: int = 0
    finished: int = 0
    before_work: int = 0
    at_work: int = 0
    again: int = 0
    most_again: int = 0
    redone: int = 0
    files: int = 0
    wrong: list[str] = field(default_factory=list)
    took_s: float = 0.0
    straight_s: float = 0.0


class Process:
    """A command of ours in a process group of its own."""

    def __init__(self, arguments: Sequence[str], trace: Path) -> None:
        command = [sys.executable, "-c", _CHILD, str(trace), *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        if (DATA.parent / "models").is_dir():
            environment.setdefault("ANTIPHON_MODELS", str(DATA.parent / "models"))
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, start_new_session=True, stdout=self._log, stderr=subprocess.STDOUT
        )

    def wait(self, timeout_s: float | None) -> int | None:
        """The exit code, or None where it is still running after `timeout_s`."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-2000:]


@dataclass(frozen=True)
class Job:
    """A command that makes a folder. `state`: folder -> what must be the same; `done`: folder -> units of work that are safe."""

    name: str
    arguments: Callable[[Path], list[str]]
    state: Callable[[Path], dict[str, bytes]]
    done: Callable[[Path], set[str]]
    begun: Callable[[Path, Path], list[str]]
    check: Callable[[Path], list[str]]


# ---- prepare


def corpus_files(out: Path) -> dict[str, bytes]:
    """Every file of a corpus but the logs, whose times differ from run to run."""
    found = [p for p in sorted(out.rglob("*")) if p.is_file() and p.parent.name != "logs"]
    return {str(p.relative_to(out)): p.read_bytes() for p in found}


def committed(out: Path) -> set[str]:
    return {p.stem for p in (out / "commits").glob("part-*.json")}


def traced_blocks(out: Path, trace: Path) -> list[str]:
    return trace.read_text().split() if trace.exists() else []


def sound_corpus(out: Path) -> list[str]:
    found = verify(str(out))
    return [f"{p.path}: {p.what}" for p in found.problems] + found.notes


def write_config(folder: Path, count: int, longest_s: float, backend: str, *more: str) -> Path:
    """A config and a manifest of the first `count` short clips of real speech, one a block."""
    folder.mkdir(parents=True, exist_ok=True)
    short = [c for c in clips("librispeech-test-other.jsonl") if 2 < c.seconds < longest_s][:count]
    lines = []
    for clip in short:
        shutil.copy(DATA / clip.line["audio"], folder)
        fields = {"audio": Path(clip.line["audio"]).name, "text": clip.line["text"], "language": "en"}
        lines.append(json.dumps(fields))
    (folder / "clips.jsonl").write_text("\n".join(lines) + "\n")
    config = [f"sources: ['{folder / 'clips.jsonl'}']", f"plan: {{block_s: {longest_s / 1.5}}}", "taste: null"]
    config += [f"transcribe: {{backend: {backend}}}", "write: {formats: [parquet, webdataset]}", *more]
    (folder / "config.yaml").write_text("\n".join(config) + "\n")
    return folder / "config.yaml"


def prepare_job(name: str, config: Path) -> Job:
    def arguments(out: Path) -> list[str]:
        return ["prepare", str(config), "--out", str(out)]

    return Job(name, arguments, corpus_files, committed, traced_blocks, sound_corpus)


# ---- train


def small_trunk(folder: Path) -> Path:
    """A random Llama of 2 layers, width 64, with a byte-level BPE of 400 tokens fitted on the clips' texts."""
    import tokenizers
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    texts = [clip.line["text"] for clip in clips("librispeech-test-other.jsonl")]
    bpe.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    PreTrainedTokenizerFast(tokenizer_object=bpe).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=400, tie_word_embeddings=True, **sizes)).save_pretrained(folder)
    return folder


def training_state(out: Path) -> dict[str, bytes]:
    """The log without what time decides, and every file of every checkpoint."""
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in e.items() if not k.endswith(("_per_s", "_per_h", "machine"))} for e in entries]
    found = {"log.jsonl": json.dumps(kept, indent=0).encode()}
    for path in sorted(p for p in out.rglob("*") if p.is_file() and p.name != "log.jsonl"):
        found[str(path.relative_to(out))] = path.read_bytes()
    return found


def saved_steps(out: Path) -> set[str]:
    newest = max((int(p.name[5:]) for p in (out / "checkpoints").glob("step-*")), default=0)
    return {str(step) for step in range(1, newest + 1)}


def logged_steps(out: Path, trace: Path) -> list[str]:
    """Steps in the log: those beyond the last checkpoint are done again."""
    steps = []
    for line in (out / "log.jsonl").read_text().splitlines() if (out / "log.jsonl").exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # torn by the kill
        steps += [str(entry["step"])] if "loss" in entry else []
    return steps


def train_job(config: Path, corpus: Path) -> Job:
    def arguments(out: Path) -> list[str]:
        return ["train", str(config), "--corpus", str(corpus), "--out", str(out)]

    return Job("train", arguments, training_state, saved_steps, logged_steps, lambda out: [])


# ---- the hunt


def hunt(
    job: Job,
    kills: int,
    work: Path,
    *,
    seed: int = 0,
    start: Callable[[Sequence[str], Path], Process] = Process,
    say: Callable[[str], None] = print,
) -> Tally:
    """Kill `job` `kills` times, going on each time, and compare every result with an undisturbed one."""
    rng, tally, trace = random.Random(seed), Tally(), work / "trace"
    begun_at = time.monotonic()
    straight = work / f"{job.name}-straight"
    for _ in range(2):  # the second time with warm caches: that is how long a run takes
        shutil.rmtree(straight, ignore_errors=True)
        started = time.monotonic()
        process = start(job.arguments(straight), trace)
        if process.wait(600) != 0:
            raise SystemExit(f"{job.name}: the undisturbed run failed:\n{process.said()}")
        tally.straight_s = time.monotonic() - started
    wanted, horizon_s = job.state(straight), tally.straight_s
    while tally.kills < kills:
        out = work / f"{job.name}-{tally.finished}"
        while True:
            safe = job.done(out)
            trace.unlink(missing_ok=True)
            started = time.monotonic()
            process = start(job.arguments(out), trace)
            at_s = rng.uniform(0, horizon_s) if tally.kills < kills else None
            try:
                code = process.wait(at_s)
            finally:
                process.kill()  # of an ended one nothing is left to kill
            killed = code is None
            tally.kills += killed
            if not killed and not safe:
                horizon_s = time.monotonic() - started  # other people's work makes this machine faster and slower
            begun = job.begun(out, trace)
            tally.redone += len(safe & set(begun)) if job.name != "train" else 0
            if killed:
                again = len(set(begun) - job.done(out))
                tally.again += again
                tally.most_again = max(tally.most_again, again)
                tally.at_work += bool(set(begun) - safe)
                tally.before_work += not set(begun) - safe
                continue
            break
        if code != 0:
            tally.wrong.append(f"{out}: exit code {code}: {process.said()}")
            break
        got = job.state(out)
        tally.finished += 1
        tally.files += len(got)
        tally.wrong += [
            f"{out / name}" for name in sorted(got.keys() | wanted.keys()) if got.get(name) != wanted.get(name)
        ]
        tally.wrong += [f"{out}: left behind: {p.name}" for p in out.rglob(".*")]
        tally.wrong += job.check(out)
        shutil.rmtree(out)
        say(
            f"{job.name}: {tally.kills} kills ({tally.before_work} before work began), {tally.finished} finished, "
            f"{tally.files} files compared, {len(tally.wrong)} differences; done again {tally.again}, "
            f"at most {tally.most_again}, redone {tally.redone}"
        )
    tally.took_s = time.monotonic() - begun_at
    return tally


def row(name: str, tally: Tally, unit: str) -> list[object]:
    return [
        name,
        f"{tally.straight_s:.1f} s",
        tally.kills,
        f"{tally.before_work} / {tally.at_work}",
        tally.finished,
        tally.files,
        len(tally.wrong),
        f"{tally.again} {unit}, at most {tally.most_again}",
        tally.redone,
        f"{tally.took_s / 60:.1f} min",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="kills in all; three fifths to the first of the jobs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--jobs", nargs="+", default=["given", "whisper", "train"], choices=["given", "whisper", "train"]
    )
    parser.add_argument("--work", type=Path, help="folder for the runs (default: a temporary one)")
    args = parser.parse_args()
    work = args.work or Path(tempfile.mkdtemp(prefix="kills-"))
    work.mkdir(parents=True, exist_ok=True)
    shares = {"given": 3, "whisper": 1, "train": 1}
    total = sum(shares[name] for name in args.jobs)
    rows, wrong = [], []
    for name in args.jobs:
        if name == "train":
            trained_on = write_config(work / "trained-on", 6, 6.0, "given")
            corpus = work / "trained-on-corpus"
            process = Process(["prepare", str(trained_on), "--out", str(corpus)], work / "trace")
            if process.wait(600) != 0:
                raise SystemExit(process.said())
            settings = f"trunk: {small_trunk(work / 'trunk')}, layout: {{name: codec}}, steps: 120, save_every: 10, eval_every: 40"
            settings += ", threads: 1, trunk_layers: 2, seq_len: 128, batch_tokens: 256, warmup: 5"
            config = write_config(work / "train", 6, 6.0, "given", f"train: {{{settings}}}")
            job = train_job(config, corpus)
        else:
            count, backend = (8, "given") if name == "given" else (4, "whisper")
            job = prepare_job(name, write_config(work / name, count, 6.0, backend, "codec: null"))
        kills = round(args.kills * shares[name] / total)
        tally = hunt(job, kills, work, seed=args.seed, say=lambda line: print(line, file=sys.stderr, flush=True))
        wrong += tally.wrong
        labels = {"given": "prepare, text given", "whisper": "prepare, Whisper tiny", "train": "train, save_every 10"}
        rows.append(row(labels[name], tally, "steps" if name == "train" else "blocks"))
    print(machine("apache-beam", "torch") + f"; seed {args.seed}, load average {os.getloadavg()[2]:.1f}\n")
    head = ["job", "undisturbed", "kills", "before / at work", "finished", "files compared", "differences"]
    print(table([*head, "done again", "committed and redone", "took"], rows))
    for line in wrong:
        print(line, file=sys.stderr)
    if not args.work:
        shutil.rmtree(work)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
