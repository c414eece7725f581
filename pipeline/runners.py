"""Which engine runs the job, and the mistakes that are better found before it starts.

* In process (the default): `--runner=FnApiRunner`, said outright. Beam's `DirectRunner` first tries to download another engine
  and falls back in silence, so that two machines would run two engines.
* Dataflow: `--runner=DataflowRunner --project ... --region ... --temp_location gs://...`; this package is staged from its
  `setup.py` unless a container image has it. A GPU is asked for with
  `--resource_hint=accelerator=type:nvidia-l4;count:1;install-nvidia-driver`.
* Flink and Spark: Beam's portable runners (`--runner=FlinkRunner` ...), which need Beam's job server.
* Any scheduler: `antiphon prepare CONFIG --out CORPUS --blocks I/N` in N jobs. Blocks are independent and commits atomic.
* Not Dask: Beam's Dask runner loses what a bundle emits when it finishes, with exit code 0 (apache-beam 2.77.0).
"""

from collections.abc import Sequence
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
