"""`smalti convert maskbit` on files of the golden weights: pipelines give what upstream gives."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden import folders, load
from test_maskbit import (
    check_model,
    check_sampler,
    check_tokenizer,
    model_config,
    tokenizer_config,
    under,
)

import smalti
from official import write
from smalti.cli.main import main
from smalti.models.maskbit import MaskBit
from smalti.tokenizers.maskbit import MaskBitVQGAN


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("folder", folders("maskbit"))
@torch.no_grad()
def test_maskbit_files(folder: Path, tmp_path):
    config, weights, io = load(folder)
    made = config["constructor"]
    paths = {name: tmp_path / f"{name}.bin" for name in ("tokenizer", "generator")}
    for name, path in paths.items():
        write(under(weights, name), path)
    main(["convert", "maskbit", "--tokenizer", str(paths["tokenizer"]),
          "--model", str(paths["generator"]), "--out", str(tmp_path / "p"),
          "--heads", str(made["generator"]["heads"])])  # fmt: skip
    pipe = smalti.load(tmp_path / "p", "cpu", torch.float32)
    bits = made["tokenizer"]["token_size"]
    wanted = model_config(made["generator"], bits)
    assert replace(pipe.model.config, dropout=0.0) == wanted
    model = MaskBit(wanted).eval()
    model.load_state_dict(pipe.model.state_dict())
    codes = tokenizer_config(made["tokenizer"], made["generator"]["img_size"])
    of_training = {"temperature": codes.temperature, "entropy_rate": codes.entropy_rate}
    assert replace(pipe.tokenizer.config, **of_training) == codes
    tokenizer = MaskBitVQGAN(codes).eval()
    tokenizer.load_state_dict(pipe.tokenizer.state_dict())
    check_tokenizer(tokenizer, made["tokenizer"], io)
    check_model(model, io)
    check_sampler(model, tokenizer, made["sampling"], io)
    io.done()
