"""DALL-E's dVAE against outputs of the official code."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, float32, folders, load, size_of
from safetensors.torch import save_file
from torch import Tensor

from smalti.cli.main import main
from smalti.interop.pickles import Checkpoint
from smalti.interop.projects.dalle import sizes, state_of
from smalti.loading import load_tokenizer
from smalti.tokenizers.dalle_dvae import (
    DalleDVAE,
    DalleDVAEConfig,
    squeezed,
    unsqueezed,
)

FOLDERS = folders("dalle_dvae")


def told(config: dict[str, Any], size: tuple[int, int]) -> DalleDVAEConfig:
    """Our configuration of the official constructors."""
    encoder, decoder = config["constructor"]["encoder"], config["constructor"]["decoder"]
    return DalleDVAEConfig(
        size=size,
        channels=encoder.get("n_hid", 256),
        blocks=encoder.get("n_blk_per_group", 2),
        decoder_channels=decoder.get("n_hid", 256),
        decoder_blocks=decoder.get("n_blk_per_group", 2),
        dim=decoder.get("n_init", 128),
        vocab=encoder.get("vocab_size", 8192),
    )


def tokenizer_of(config: dict[str, Any], weights: dict[str, Tensor], io: Vectors) -> DalleDVAE:
    ours, weights = told(config, size_of(io["image"])), float32(weights)
    found = sizes(Checkpoint(Path("x"), weights, {}))
    assert DalleDVAEConfig(**(vars(found) | {"size": ours.size})) == ours, "the file says it all"
    tokenizer = DalleDVAE(ours).eval()
    tokenizer.load_state_dict(state_of(weights))
    return tokenizer


@torch.no_grad()
def check(tokenizer: DalleDVAE, io: Vectors, config: dict[str, Any]) -> None:
    io.check("mapped", squeezed(io["image"]))
    if "unmap_in" in io:
        io.clamped("unmap_out", unsqueezed(io["unmap_in"]), 0, 1)
    images = 2 * io["image"] - 1
    logits = tokenizer.latent(images)
    io.check("encoder_logits", logits)
    io.check("indices", tokenizer.encode(images))
    stats = tokenizer.decoder(tokenizer.quantize.decode(io["indices"]))
    io.check("decoder_stats", stats)
    io.check("reconstruction", (tokenizer.shown(stats) + 1) / 2)
    assert torch.equal(tokenizer.decode(io["indices"].flatten(1)), tokenizer.shown(stats))
    io.check("codes_stats", tokenizer.decoder(tokenizer.quantize.decode(io["codes"])))
    (temperature,) = temperatures(config)
    noisy = (io["encoder_logits"] + io["gumbel_noise"]) / temperature
    io.check("relaxed", noisy.softmax(1))
    io.check("relaxed_stats", tokenizer.decoder(tokenizer.quantize.mixed(io["relaxed"])))


def temperatures(config: dict[str, Any]) -> list[float]:
    """What the meaning of the relaxed codes says behind tau."""
    words = config["io_tensors"]["relaxed"]["meaning"].split()
    return [float(after) for word, after in zip(words, words[1:], strict=False) if word == "tau"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_dvae(folder: Path):
    config, weights, io = load(folder)
    check(tokenizer_of(config, weights, io), io, config)
    io.done()


@pytest.mark.parametrize("folder", FOLDERS)
def test_convert_a_file_of_both(folder: Path, tmp_path: Path):
    config, weights, io = load(folder)
    save_file(weights, tmp_path / "dvae.safetensors")
    height, width = size_of(io["image"])
    words = ["convert", "dalle", "--tokenizer", str(tmp_path / "dvae.safetensors")]
    main([*words, "--size", f"{height}x{width}", "--out", str(tmp_path / "out")])
    check(load_tokenizer(tmp_path / "out", "cpu"), io, config)
    io.done()
