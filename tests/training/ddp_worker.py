"""One process of a run under torchrun: `ddp_worker.py OPTIONS_JSON TRUNK OUT CORPUS...`."""

import json
import sys
from pathlib import Path

import torch

from training.options import TrainOptions
from training.train import train

if __name__ == "__main__":
    torch.set_num_threads(1)
    options = TrainOptions.model_validate(json.loads(sys.argv[1]))
    train(options, sys.argv[4:], Path(sys.argv[2]), Path(sys.argv[3]))
