"""LlamaGen's tokenizer and GPT against outputs of the official code.

Tolerances: 3e-5 on images and latents, 1e-5 on teacher-forced logits, 1e-5 * 2 * scale on guided
logits; tokens and indices are exact.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, folders, load

from smalti.codes import Cond
from smalti.engine.causal import generate, spans
from smalti.interop.llamagen import gpt_config, gpt_state, vq_config, vq_state
from smalti.models.llamagen import LlamaGen
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.tokenizers.vqgan import VQGAN

GREEDY = Filters(top_k=1)


def close(ours: torch.Tensor, golden: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(ours.reshape(golden.shape), golden, rtol=0, atol=atol)


@pytest.mark.parametrize("folder", folders("llamagen_vq"))
@torch.no_grad()
def test_llamagen_vq(folder: Path):
    config, weights, io = load(folder)
    args = dict(config["constructor"])
    settings = args.pop("ModelArgs")
    size = tuple(io["image"].shape[2:])
    model = VQGAN(vq_config(settings, size, **args)).eval()
    model.load_state_dict(vq_state({k: v.float() for k, v in weights.items()}))
    check_vq(model, config, io)


def check_vq(model: VQGAN, config: dict[str, Any], io: Vectors) -> None:
    """Compare a tokenizer with every golden tensor."""
    settings, images = config["constructor"]["ModelArgs"], io["image"]
    assert model.config.factor == config["downsample"]
    close(model.encoder(images), io["encoder_out"], 3e-5)
    close(model.latent(images), io["latent_pre_quant"], 3e-5)
    codes = model.encode(images)
    assert torch.equal(codes, io["indices"].view_as(codes))
    out = model(images, entropy=True)
    assert torch.equal(out.quantized.codes.flatten(1), codes)
    close(out.latent, io["latent_pre_quant"], 3e-5)
    close(out.quantized.latent, io["quantized_ste"], 3e-5)
    close(out.images, io["reconstruction"], 3e-5)
    close(model.decode(codes), io["reconstruction"], 3e-5)

    losses, beta = out.quantized.losses, settings["commit_loss_beta"]
    close(losses["codebook"], io["train_vq_loss"], 1e-6)
    close(beta * losses["commitment"], io["train_commit_loss"], 1e-6)
    ratio = settings["entropy_loss_ratio"]
    close(ratio * losses["entropy"], io["train_entropy_loss"], 1e-5)

    batch, _, height, width = io["code_shape"].tolist()
    grid = io["codes"].view(batch, height, width)
    latent = model.quantize.decode(grid)
    close(latent, io["decode_code_latent"], 1e-6)
    close(model.render(latent), io["decode_code_image"], 3e-5)
    if (height, width) == model.spec.grids[0]:
        close(model.decode(grid.flatten(1)), io["decode_code_image"], 3e-5)
    io.done()


def condition(model: LlamaGen, io: Vectors) -> Cond:
    if model.config.classes:
        return Cond(labels=io["class_ids"])
    return Cond(text=io["caption"], text_mask=io["caption_mask"].bool())


def guidance_of(scale: float, interval: int, steps: int) -> Guidance:
    """The official settings in our convention: guidance is on above 1, for interval + 2 steps."""
    if scale <= 1:
        return Guidance()
    if interval < 0:
        return Guidance(scale)
    return Guidance(scale, "interval", start=0, stop=min((interval + 2) / steps, 1))


def first_logits(model: LlamaGen, cond: Cond, guidance: Guidance, count: int) -> torch.Tensor:
    """The guided logits (B, count, V) of the first greedy steps, with the cache."""
    steps = spans(model.blocks)
    codes = model.spec.empty(cond.batch)
    branches = guidance.branches(cond)
    prepared, cache = model.prepare(branches), model.cache(branches.batch)
    logits = []
    for i, span in enumerate(steps[:count]):
        guide = guidance.at(i, len(steps))
        h = model.hidden(guide.tile(codes), prepared, span, cache)
        logits.append(guide.merge(model.head.logits(h)))
        codes[:, span.slots] = logits[-1].argmax(-1)
    return torch.cat(logits, 1)


@pytest.mark.parametrize("folder", folders("llamagen_gpt"))
@torch.no_grad()
def test_llamagen_gpt(folder: Path):
    config, weights, io = load(folder)
    model = LlamaGen(gpt_config(config["constructor"])).eval()
    model.load_state_dict(gpt_state(weights, model.config))
    check_gpt(model, config, io)


def check_gpt(model: LlamaGen, config: dict[str, Any], io: Vectors) -> None:
    """Compare a generator with every golden tensor."""
    derived = config["derived"]
    assert model.config.head_dim == derived["head_dim"]
    assert model.config.ffn_dim == derived["ffn_hidden"]
    assert model.config.grid == (derived["grid"], derived["grid"])
    close(model.rope_table(), io["rope_table"], 1e-6)
    assert not model.rope_table()[: model.config.prefix].any()

    codes, cond = io["token_ids"], condition(model, io)
    (everything,) = spans([model.spec.positions])
    logits = model.head.logits(model.hidden(codes, model.prepare(cond), everything))
    close(logits, io["tf_logits"], 1e-5)
    # upstream's text training weights each sample by `valid`
    valid = io["valid"] if "valid" in io else torch.ones(len(codes))
    weight = valid[:, None].expand_as(codes)
    for training in (False, True):  # which may take different paths through attention
        with torch.set_grad_enabled(training):
            loss = model.loss(codes, cond).detach()  # (B, N)
        close((loss * weight).sum() / weight.sum().clamp(min=1), io["tf_loss"], 1e-5)

    noise = Noise.request(0, len(codes))
    scale, interval = io["cfg_scale"].item(), int(io["cfg_interval"])
    for name, s, k in (("cfg", scale, interval), ("nocfg", 1.0, -1)):
        guidance = guidance_of(s, k, len(model.blocks))
        golden = io[f"gen_{name}_logits_first3"]
        close(first_logits(model, cond, guidance, golden.shape[1]), golden, 1e-5 * max(1, 2 * s))
        for bucket in (1, 8):
            tokens = generate(model, cond, noise, guidance, GREEDY, bucket=bucket)
            assert torch.equal(tokens, io[f"gen_{name}_tokens"])
    io.done()
