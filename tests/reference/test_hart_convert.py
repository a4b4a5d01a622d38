"""HART's golden weights as released folders: `smalti convert`, `smalti.load`, golden tensors."""

import json
from pathlib import Path

import pytest
import torch
from golden import float32, folders, load
from safetensors.torch import load_file
from test_hart_transformer import check
from test_hart_vae import check as check_vae
from test_rar_convert import same

import smalti
from official import write
from smalti import modules
from smalti.cli.main import main
from smalti.interop.projects.hart import model_state, vae_state
from smalti.modules import load_module


@pytest.mark.parametrize("folder", folders("hart_transformer"))
def test_transformers(folder: Path, tmp_path):
    config, weights, io = load(folder)
    stored = load_file(folder / config["vae_weights"])
    codes, _, _ = load((folder / config["vae_weights"]).parent)
    vae, llm = tmp_path / "tokenizer", tmp_path / "llm"
    for path in (vae, llm):
        path.mkdir()
    write({f"vae.{name}": tensor for name, tensor in stored.items()}, vae / "pytorch_model.bin")
    write(weights, llm / "ema_model.bin")
    (llm / "config.json").write_text(json.dumps(config["constructor"]))
    sides = [*map(str, config["constructor"]["patch_nums"])]
    files = ["--tokenizer", str(vae), "--model", str(llm), "--out", str(tmp_path / "p")]
    ratio = str(codes["constructor"].get("quant_resi", 0.5))  # which no file says
    main(["convert", "hart", *files, "--scales", *sides, "--quant-resi", ratio])
    pipe = smalti.load(tmp_path / "p", "cpu", torch.float32)
    tokenizer = vae_state(float32(stored))
    assert same(pipe.tokenizer, tokenizer)
    assert same(pipe.model, model_state(float32(weights), tokenizer))
    assert pipe.text is not None and pipe.text.config.length == pipe.model.config.text_length
    assert pipe.sampling.guidance.scales[0] == 1 and pipe.sampling.filters.smooth
    if config.get("infer", {}).get("iters", 1) == 1:  # how many, no file says
        with torch.no_grad():
            check(pipe.model, pipe.tokenizer, config, io)


@pytest.mark.parametrize("folder", folders("hart_vae"))
@torch.no_grad()
def test_tokenizers(folder: Path, tmp_path):
    config, weights, io = load(folder)
    file = write(weights, tmp_path / "vae.bin")
    made = config["constructor"]
    options = ["--scales", *map(str, made["v_patch_nums"])]
    options += ["--quant-resi", str(made.get("quant_resi", 0.5))]
    main(["convert", "hart", "--tokenizer", str(file), "--out", str(tmp_path / "t"), *options])
    tokenizer, _ = load_module(tmp_path / "t", modules.TOKENIZERS)
    assert same(tokenizer, vae_state(float32(weights)))
    check_vae(tokenizer, config, io)
