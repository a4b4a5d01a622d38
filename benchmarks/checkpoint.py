"""How long does a checkpoint of LlamaGen-B take, how long does training wait, how long is a resume?

    python benchmarks/checkpoint.py [--quick] [--folder DIR]

Weights, average, and both moments of AdamW in float32. `blocked_s` is what `Trainer.save` takes of
the training thread, `written_s` until everything is on the disk and has its name. `resume_s` is a
new trainer's `resume` with the file in the system's cache; `load_s` is safetensors' reading of the
same file alone. `disk_GB_per_s` is a plain write and fsync of as many bytes just after; a virtual
disk is slow where it was never written, so the later numbers are those of a run that goes on.
"""

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from common import report, seconds
from smalti.models.llamagen import LlamaGen
from smalti.recipes.llamagen import llamagen_b
from smalti.train import checkpoint
from smalti.train.objectives import Likelihood
from smalti.train.optim import fill_state
from smalti.train.parallel import World, keep_freed_memory
from smalti.train.trainer import Trainer

WORLD = World(0, 1, torch.device("cpu"))


class NoBatches:
    """Nothing is trained here."""


def trainer(run: Path, layers: int) -> Trainer:
    recipe = llamagen_b()
    model = replace(recipe.model, layers=layers or recipe.model.layers)
    made = Trainer(
        Likelihood(LlamaGen(model), recipe.objective), NoBatches(), recipe.train, run, WORLD
    )
    for optimizer in made.optimizers.values():
        fill_state(optimizer)
    return made


def write(path: Path, size: int) -> None:
    block = memoryview(bytearray(1 << 24))
    with open(path, "wb", buffering=0) as file:
        for _ in range(size >> 24):
            file.write(block)
        os.fsync(file.fileno())


def main() -> None:
    parser = argparse.ArgumentParser(description="checkpoints of LlamaGen-B")
    parser.add_argument("--quick", action="store_true", help="one layer: a trial")
    parser.add_argument("--folder", help="where to write; default: a temporary folder")
    options = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        run = Path(folder) / "run"
        first = trainer(run, 1 if options.quick else 0)
        for number in range(1, 7):
            first.step = number
            blocked = seconds(first.save)
            rest = seconds(first.writer.wait)
            newest = checkpoint.found(run / "checkpoints")[-1]
            file = newest / "state.safetensors"
            size = file.stat().st_size
            beside = run / f"plain-{number}"
            plain = seconds(lambda: write(beside, size))  # noqa: B023 - called at once
            beside.unlink()
            second = trainer(run, 1 if options.quick else 0)
            report(
                {
                    "script": "checkpoint",
                    "number": number,
                    "size_GB": size / 1e9,
                    "blocked_s": blocked,
                    "written_s": blocked + rest,
                    "disk_GB_per_s": size / plain / 1e9,
                    "resume_s": seconds(second.resume),
                    "load_s": seconds(lambda: load_file(file)),  # noqa: B023
                }
            )


if __name__ == "__main__":
    main()
