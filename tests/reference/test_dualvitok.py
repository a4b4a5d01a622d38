"""DualViTok against outputs of its official code: what the ViT sees, both branches, the decoder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, float32, folders, load, size_of
from torch import Tensor
from torch.nn import functional as F

from smalti.cli.main import main
from smalti.interop.dualvitok import tokenizer_state
from smalti.loading import load_tokenizer
from smalti.nn.frozen_vit import FrozenViTConfig
from smalti.nn.vision import TowerConfig
from smalti.tokenizers.dual import DualConfig, DualTokenizer
from smalti.tokenizers.dual_pixels import PixelConfig
from smalti.tokenizers.quantize.vq import Quantized

HEADS, PATCH, MERGE, FRAMES = 16, 14, 2, 2
"""What the official code fixes."""


def convolutions(told: dict[str, Any], encodes: bool) -> PixelConfig:
    return PixelConfig(
        told["ch"],
        tuple(told["ch_mult"]),
        told["num_res_blocks"],
        tuple(told["attn_resolutions"]),
        told["z_channels"] * (2 if told["double_z"] and encodes else 1),
        told["use_dc_up_down_blocks"],
    )


def config_of(told: dict[str, Any], size: tuple[int, int]) -> DualConfig:
    whole, vit = told["config"], told["vit"]
    encoder, decoder = whole["semantic_encoder"], whole["semantic_decoder"]
    inside = round(vit["mlp_ratio"] * vit["embed_dim"])
    tower = TowerConfig(vit["depth"], vit["num_heads"], vit["embed_dim"], inside, "sigmoid")
    semantic, pixel = whole["semantic_quantizer"], whole["pixel_quantizer"]
    assert encoder["target_mlp"] == "norm" and {semantic["type"], pixel["type"]} == {"SimVQ"}
    return DualConfig(
        size=size,
        vit=FrozenViTConfig(patch=PATCH, merge=MERGE, features=vit["hidden_size"], vision=tower),
        width=encoder["embed_dim"],
        layers=encoder["num_blocks"],
        decoder_layers=decoder["num_blocks"],
        heads=HEADS,
        semantic_vocab=semantic["codebook_size"],
        semantic_dim=semantic["dim"],
        pixel_vocab=pixel["codebook_size"],
        pixel_dim=pixel["dim"],
        norms=(encoder["proj_layer"] == "linear_norm", decoder["proj_layer"] == "linear_norm"),
        rotate=semantic["rotation_trick"],
        encoder=convolutions(whole["pixel_encoder"], True),
        decoder=convolutions(whole["pixel_decoder"], False),
    )


def patches_of(pixels: Tensor) -> Tensor:
    """Pixels (B, 3, H, W) as the vectors that upstream's ViT takes: patches of two equal frames,
    those of a window of 2 x 2 one behind the other."""
    batch, _, height, width = pixels.shape
    h, w = height // PATCH // MERGE, width // PATCH // MERGE
    x = pixels.view(batch, 3, h, MERGE, PATCH, w, MERGE, PATCH)
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7)  # (B, h, w, 2, 2, 3, 14, 14)
    x = x.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, FRAMES, -1, -1)
    return x.reshape(-1, 3 * FRAMES * PATCH**2)


def published(out: Quantized) -> Tensor:
    """The loss of a quantizer as upstream weighs it."""
    return out.losses["codebook"] + 0.25 * out.losses["commitment"]


def check(model: Any, io: Vectors) -> None:
    images = io["image"]
    prepared = model.vit.prepared(images)
    io.check("vit_patches", patches_of(prepared))
    height, width = (side // PATCH for side in size_of(prepared))
    io.check("grid_thw", torch.tensor([[1, height, width]] * len(images)))
    target = model.target(images)
    io.check("semantic_target", target)
    latents = model.semantic_encoder(target), model.pixel_latent(images)
    found = model.semantic_quantize(latents[0]), model.pixel_quantize(latents[1])
    for name, z, out in zip(("semantic", "pixel"), latents, found, strict=True):
        io.check(f"{name}_latent", z)
        io.check(f"{name}_indices", out.codes)
        io.check(f"{name}_quant", out.latent)
        io.check(f"{name}_vq_loss", published(out))
    io.check("semantic_codebook", model.semantic_quantize.codebook())
    io.check("pixel_codebook", model.pixel_quantize.codebook())
    codes = torch.cat([out.codes.flatten(1) for out in found], 1)
    codes = codes + model.spec.firsts
    assert torch.equal(model.encode(images), codes)
    # upstream's maps lie channels last, where norms of groups round otherwise, up to 3e-5 in pixels
    maps = [out.latent.to(memory_format=torch.channels_last) for out in found]
    io.check("decoded", model.render(*maps))
    io.check("decoded_from_codes", model.render(*maps))
    for images_back in (model(images).images, model.decode(codes)):
        io.check("decoded", images_back, 5e-5)
        io.check("decoded_from_codes", images_back, 5e-5)
    back = model.semantic_decoder(found[0].latent)
    io.check("semantic_recon", back)
    io.check("semantic_cos_loss", (1 - F.cosine_similarity(back, target, dim=1)).mean())


@pytest.mark.parametrize("folder", folders("dualvitok"))
@torch.no_grad()
def test_dualvitok(folder: Path):
    config, weights, io = load(folder)
    model = DualTokenizer(config_of(config, size_of(io["image"]))).eval()
    model.load_state_dict(tokenizer_state(float32(weights)))
    check(model, io)
    io.done()


@pytest.mark.parametrize("folder", folders("dualvitok"))
@torch.no_grad()
def test_a_file_of_dualvitok_becomes_a_tokenizer(folder: Path, tmp_path: Path):
    _, weights, io = load(folder)
    torch.save({"model": weights}, tmp_path / "dualvitok.pth")
    height, width = size_of(io["image"])
    main(["convert", "illume", "--tokenizer", str(tmp_path / "dualvitok.pth"), "--size",
          f"{height}x{width}", "--out", str(tmp_path / "out")])  # fmt: skip
    check(load_tokenizer(tmp_path / "out", "cpu"), io)
    io.done()
