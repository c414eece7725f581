"""One process of a run under torchrun: `ddp_worker.py OPTIONS_JSON TRUNK OUT CORPUS...`.

With FAULT=sigterm or FAULT=nan in the environment it comes to the second process alone, in its third step.
"""

import faulthandler
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from training.model import HybridLM
from training.options import TrainOptions
from training.train import train


def suffer(fault: str) -> None:
    original, calls = HybridLM.forward, 0

    def forward(self: HybridLM, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3 and fault == "sigterm":
            os.kill(os.getpid(), signal.SIGTERM)
        total, found = original(self, batch)
        return total * (float("nan") if calls == 3 and fault == "nan" else 1), found

    HybridLM.forward = forward  # type: ignore[method-assign]


if __name__ == "__main__":
    faulthandler.enable()  # an abort in native code says where it was
    torch.set_num_threads(1)
    if os.environ["RANK"] == "1" and "FAULT" in os.environ:
        suffer(os.environ["FAULT"])
    options = TrainOptions.model_validate(json.loads(sys.argv[1]))
    train(options, sys.argv[4:], Path(sys.argv[2]), Path(sys.argv[3]))
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is saved by now. Once in ten runs or so a native thread (gloo's or the store's) outlived the interpreter and
    # aborted the process: `terminate called without an active exception`, no Python frame.
    os._exit(0)
