"""Command lines of very small systems, and folders of pictures, for whole runs in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smalti.cli.main import main

TRAIN = "--train.batch 8 --train.save-every 4 --train.precision fp32 --train.device cpu".split()
TOKENIZER = [
    *"--data.source shapes:64 --model.size 16 16 --model.channels 8 --model.latent 8".split(),
    *"--model.vocab 16 --objective.codebook.warmup 2 --train.steps 6".split(),
    *TRAIN,
]
GENERATOR = [
    *"--data.source shapes:64 --model.layers 1 --model.heads 2 --model.dim 16".split(),
    *"--model.multiple-of 16 --train.steps 6".split(),
    *TRAIN,
]


def write_pictures(folder: Path, count: int, classes: tuple[str, ...] = ()) -> Path:
    """Pictures of one colour each, in turn in the sub-folders of the classes."""
    rng = np.random.default_rng(0)
    for i in range(count):
        place = folder / classes[i % len(classes)] if classes else folder
        place.mkdir(parents=True, exist_ok=True)
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        Image.new("RGB", (20 + i % 3, 24), colour).save(place / f"{i:03d}.png")
    return folder


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command prints on standard output."""
    capsys.readouterr()
    main([str(a) for a in arguments])
    return capsys.readouterr().out


def mistake(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a command says of a mistake, with exit code 2 and no other output."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    output = capsys.readouterr()
    (line,) = output.err.splitlines()[-1:]
    assert stop.value.code == 2 and not output.out
    return line
