"""Infinity's tokenizer against outputs of the official code, and its files converted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, float32, folders, load, size_of
from test_rar_convert import same

from official import write
from official_settings import infinity_config
from smalti import modules
from smalti.cli.main import main
from smalti.interop.pickles import Checkpoint
from smalti.interop.projects.infinity import vae_sizes, vae_state
from smalti.modules import load_module
from smalti.tokenizers.infinity import InfinityVAE, InfinityVAEConfig, at


def config_of(config: dict[str, Any]) -> InfinityVAEConfig:
    return infinity_config(
        config["constructor"], config["scale_schedule"], **config.get("overrides", {})
    )


@pytest.mark.parametrize("folder", folders("infinity_vae"))
@torch.no_grad()
def test_infinity_vae(folder: Path):
    config, weights, io = load(folder)
    model = InfinityVAE(config_of(config)).eval()
    model.load_state_dict(vae_state(float32(weights)))
    check(model, io)


def check(model: InfinityVAE, io: Vectors) -> None:
    """Compare a tokenizer with every golden tensor."""
    images, quantizer = io["image"], model.quantize
    assert model.size == size_of(images)
    io.check("features", model.latent(images))
    codes = model.encode(images)
    for k, part in enumerate(codes.split(quantizer.sizes, 1)):
        io.check(f"bits_{k}", part.unflatten(1, quantizer.grids[k]).unsqueeze(1))
    out = model(images)
    assert torch.equal(out.quantized.codes, codes)
    io.check("features", out.latent)
    io.check("quantized", out.quantized.latent)
    for pixels in (out.images, model.decode(codes), model.decode(quantizer.embed(codes))):
        io.clamped("decoded", pixels, -1, 1)
        io.clamped("decoded_from_bits", pixels, -1, 1)
    io.check("sum_codes", quantizer.decode(codes).unsqueeze(2))
    io.done()


@pytest.mark.parametrize("folder", folders("infinity_vae"))
def test_another_network_reads_the_codes_of_the_same_scales(folder: Path):
    """The scales are the codes' alone: nothing of the network knows them."""
    config, weights, io = load(folder)
    made = config_of(config)
    model = InfinityVAE(at(made, ((1, 1), made.scales[-1]))).eval()
    model.load_state_dict(vae_state(float32(weights)))
    with torch.no_grad():
        codes = model.encode(io["image"], made.spec)
        own = InfinityVAE(made).eval()
        own.load_state_dict(model.state_dict())
        assert torch.equal(codes, own.encode(io["image"]))
        assert torch.equal(model.decode(codes, made.spec), own.decode(codes))


@pytest.mark.parametrize("layout", ["published", "flat", "trained", "old"])
@pytest.mark.parametrize("folder", folders("infinity_vae"))
@torch.no_grad()
def test_files(folder: Path, layout: str, tmp_path: Path):
    config, weights, io = load(folder)
    wanted = config_of(config)
    content: Any = {"flat": weights}.get(layout, {"vae": weights})
    if layout == "trained":
        content |= {"image_disc": {"main.0.weight": torch.ones(2)}, "iteration": 3}
    file = write(content, tmp_path / "infinity_vae.pth", old=layout == "old")
    options = ["--budget", "0.06M", "--bits", str(wanted.bits), "--cells", "1"]
    main(["convert", "infinity", "--tokenizer", str(file), "--out", str(tmp_path / "t"), *options])
    tokenizer, info = load_module(tmp_path / "t", modules.TOKENIZERS)
    assert tokenizer.spec.grids[-1] == (16, 16) and list(info["files"]) == [file.name]
    assert at(tokenizer.config, wanted.scales) == wanted
    assert same(tokenizer, vae_state(float32(weights)))
    codes = tokenizer.encode(io["image"], wanted.spec)
    bits = torch.cat([b.flatten(1, 3) for b in io.series("bits_")], 1)
    assert torch.equal(codes, bits.long())


@pytest.mark.parametrize("folder", folders("infinity_vae"))
def test_sizes_are_read_from_the_tensors(folder: Path):
    config, weights, _ = load(folder)
    wanted = config_of(config)
    found = vae_sizes(Checkpoint(Path("x.pth"), weights, {}), cells=1)
    assert at(found, wanted.scales) == wanted
