"""IBQ's tokenizer against outputs of the official code."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, float32, folders, load, size_of

from official import other, write
from smalti import modules
from smalti.cli.main import main
from smalti.interop.projects.rq import attended
from smalti.interop.projects.var import vae_state
from smalti.modules import load_module
from smalti.tokenizers.ibq import IBQTokenizer, IBQTokenizerConfig


def tokenizer_config(told: dict[str, Any], size: tuple[int, int]) -> IBQTokenizerConfig:
    """Our settings of official ones."""
    shape = told["ddconfig"]
    assert (shape["in_channels"], shape["out_ch"], shape["double_z"]) == (3, 3, False)
    assert not told.get("remap")
    return IBQTokenizerConfig(
        size=size,
        channels=shape["ch"],
        multipliers=tuple(shape["ch_mult"]),
        blocks=shape["num_res_blocks"],
        latent=shape["z_channels"],
        vocab=told["n_embed"],
        dim=told["embed_dim"],
        temperature=told.get("entropy_temperature", 0.01),
        attention_at=attended(shape["resolution"], shape),
        dropout=shape.get("dropout", 0.0),
    )


@pytest.mark.parametrize("folder", folders("ibq"))
def test_ibq(folder: Path):
    config, weights, io = load(folder)
    told = config["constructor"]
    model = IBQTokenizer(tokenizer_config(told, size_of(io["image"]))).eval()
    model.load_state_dict(vae_state(float32(weights)))
    with torch.no_grad():
        check_pictures(model, io)
    check_training(model, told, io)
    io.done()


def check_pictures(model: IBQTokenizer, io: Vectors) -> None:
    """Compare what images and codes become."""
    z = model.latent(io["image"])
    io.check("latent", z)
    io.check("logits", torch.einsum("bchw,vc->bvhw", z, model.quantize.embedding.weight))
    codes = model.encode(io["image"])
    io.check("indices", codes)
    out = model(io["image"])
    assert torch.equal(out.quantized.codes.flatten(1), codes)
    io.check("quantized", out.quantized.latent)
    for pictures in (out.images, model.decode(codes)):
        io.check("reconstruction", pictures)
    if "codes" in io:
        grid = io["codes"].view(len(io["codes_image"]), *model.spec.grids[0])
        io.check("codes_image", model.render(model.quantize.decode(grid)))
        io.check("codes_image", model.decode(grid.flatten(1)))


def check_training(model: IBQTokenizer, told: dict[str, Any], io: Vectors) -> None:
    """Compare losses and gradients; upstream's is one loss of three terms."""
    quantizer, z = model.quantize, io["latent"].clone().requires_grad_()
    entropy = told.get("use_entropy_loss", False)
    out = quantizer(z, entropy=entropy)
    losses, beta = out.losses, told.get("beta", 0.25)
    total = losses["joint"] + losses["commitment"] + beta * losses["codebook"]
    io.check("quant_loss", total)
    if entropy:
        each, mean = quantizer.entropies(quantizer.rows(z))
        low = told.get("sample_minimization_weight", 1.0)
        high = told.get("batch_maximization_weight", 1.0)
        io.check("sample_entropy", each, size=mean.item())
        io.check("avg_entropy", mean)
        weighted = low * each - high * mean
        io.check("entropy_loss", weighted)
        if low == high == 1:
            torch.testing.assert_close(losses["entropy"], weighted)
        total = total + weighted
    ramp = torch.linspace(-1, 1, out.latent.numel()).view_as(out.latent)
    total = total + (out.latent * ramp).sum()
    on_codes, on_latent = torch.autograd.grad(total, [quantizer.embedding.weight, z])
    io.check("grad_codebook", on_codes)
    io.check("grad_latent", on_latent)


@pytest.mark.parametrize("folder", folders("ibq"))
def test_a_file_of_its_weights_is_converted(folder: Path, tmp_path: Path):
    """Lightning's, which holds other weights beside the moving average."""
    config, weights, io = load(folder)
    average = {f"model_ema.{name.replace('.', '')}": t for name, t in weights.items()}
    file = write({"state_dict": other(weights) | average}, tmp_path / "imagenet256.ckpt")
    height, width = size_of(io["image"])
    words = ["--tokenizer", str(file), "--size", f"{height}x{width}"]
    main(["convert", "ibq", *words, "--out", str(tmp_path / "t")])
    model, _ = load_module(tmp_path / "t", modules.TOKENIZERS, dtype=torch.float32)
    told = tokenizer_config(config["constructor"], (height, width))
    of_training = {"temperature": told.temperature, "dropout": told.dropout}  # no file says these
    assert replace(model.config, **of_training) == told
    with torch.no_grad():
        io.check("indices", model.encode(io["image"]))
