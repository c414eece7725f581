"""Which engine runs the job, and the mistakes that are better found before it starts.

* In process (the default): `--runner=FnApiRunner`, said outright. Beam's `DirectRunner` first tries to download another engine
  and falls back in silence, so that two machines would run two engines.
* Dataflow: `--runner=DataflowRunner --project ... --region ... --temp_location gs://...`; this package is staged from its
  `setup.py` unless a container image has it. A GPU is asked for with
  `--resource_hint=accelerator=type:nvidia-l4;count:1;install-nvidia-driver`.
* Flink and Spark: Beam's portable runners (`--runner=FlinkRunner` ...), which need Beam's job server.
* Any scheduler: `antiphon prepare CONFIG --out CORPUS --blocks I/N` in N jobs. Blocks are independent and commits atomic.
* Several local processes: `--blocks I/N`. Beam's own multi-processing mode (`--direct_running_mode=multi_processing`) gives the
  same bytes, but is slower and waits for ever when one of its workers dies; `watched` ends such a run.
* Not Dask: Beam's Dask runner loses what a bundle emits when it finishes, with exit code 0 (apache-beam 2.77.0).
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline import files
from schemas import Block
from schemas.errors import UserError

_LOCAL = ("FnApiRunner", "DirectRunner", "BundleBasedDirectRunner")


def value_of(args: Sequence[str], name: str) -> str | None:
    """The value of `--name=value` or `--name value` in Beam's arguments; the last one counts."""
    found = None
    for i, arg in enumerate(args):
        if arg.startswith(f"--{name}="):
            found = arg.partition("=")[2]
        elif arg == f"--{name}" and i + 1 < len(args):
            found = args[i + 1]
    return found


def complete(beam_args: Sequence[str], out: str, blocks: Sequence[Block]) -> list[str]:
    """Beam's arguments with what is missing added.

    Raises UserError, with every mistake, where a remote runner is asked to read or write what its workers cannot see.
    """
    args = list(beam_args)
    runner = value_of(args, "runner")
    if runner is None:
        return [*args, "--runner=FnApiRunner"]
    if runner in _LOCAL:
        return args
    mistakes = []
    if runner == "DaskRunner":
        mistakes.append("DaskRunner loses data without saying so; use --blocks I/N in as many processes as you like")
    if not files.is_remote(out):
        mistakes.append(f"--out {out}: {runner}'s workers cannot see a local folder; give a gs:// prefix")
    local = [piece.uri for block in blocks for piece in block.pieces if piece.uri and not files.is_remote(piece.uri)]
    if local:
        mistakes.append(f"{len(local)} sources are local, such as {local[0]}: {runner}'s workers cannot read them")
    if runner == "DataflowRunner":
        for name in ("project", "region", "temp_location"):
            if value_of(args, name) is None:
                mistakes.append(f"DataflowRunner needs --{name}")
    if mistakes:
        raise UserError("\n".join(mistakes))
    setup = Path(__file__).resolve().parent.parent / "setup.py"
    staged = any(value_of(args, name) for name in ("setup_file", "sdk_container_image"))
    if setup.exists() and not staged:
        args.append(f"--setup_file={setup}")
    return args


@contextlib.contextmanager
def watched(beam_args: Sequence[str]) -> Iterator[None]:
    """End the process, with exit code 2 and a reason, where a local worker process dies while the context lasts.

    In its multi-processing mode Beam (2.77.0) raises a worker's death in the thread that started it, where nobody hears it,
    and waits for that worker for ever. There is no way to end that wait from outside, so the process and its workers are
    ended. That is safe: a run may be killed anywhere. Other modes have no worker process, and are left alone.
    """
    if value_of(beam_args, "direct_running_mode") != "multi_processing":
        yield
        return
    print(
        "antiphon: Beam's multi-processing mode is slower to start than --blocks I/N in several processes, and repeats the "
        "blocks of all its workers when one of them dies",
        file=sys.stderr,
    )
    before = threading.excepthook

    def heard(args: threading.ExceptHookArgs) -> None:
        before(args)
        if "Worker subprocess exited" in str(args.exc_value):
            print(
                f"antiphon: a worker process died ({args.exc_value}; 137 or -9 is often the kernel's way to say that memory "
                "ran out); what is committed stays, and the same command goes on",
                file=sys.stderr,
                flush=True,
            )
            for child in _descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            os._exit(2)

    threading.excepthook = heard
    try:
        yield
    finally:
        threading.excepthook = before


def _descendants(pid: int) -> list[int]:
    """Process ids below `pid`, on Linux; elsewhere none."""
    found = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, listing.read_text().split()):
                found += [child, *_descendants(child)]
    return found
