"""Open-MAGVIT2's tokenizer and GPT against outputs of the official code."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, float32, folders, load, size_of
from greedy import draws, most_probable
from torch import Tensor
from torch.nn import functional as F

from smalti.codes import Cond
from smalti.engine.causal import spans
from smalti.interop.projects.open_magvit2 import gpt_state
from smalti.models.open_magvit2 import OpenMAGVIT2, OpenMAGVIT2Config
from smalti.nn.groups import Groups, to_number
from smalti.sampling.guidance import Guidance
from smalti.tokenizers.open_magvit2 import OpenMAGVIT2LFQ, OpenMAGVIT2LFQConfig


def tokenizer_config(told: dict[str, Any], size: tuple[int, int]) -> OpenMAGVIT2LFQConfig:
    """Our settings of official ones."""
    shape = told["ddconfig"]
    assert (shape["in_channels"], shape["out_ch"], shape["double_z"]) == (3, 3, False)
    assert 2 ** shape["z_channels"] == told["n_embed"] and shape["z_channels"] == told["embed_dim"]
    return OpenMAGVIT2LFQConfig(
        size=size,
        channels=shape["ch"],
        multipliers=tuple(shape["ch_mult"]),
        blocks=shape["num_res_blocks"],
        bits=shape["z_channels"],
    )


@pytest.mark.parametrize("folder", folders("open_magvit2_lfq"))
@torch.no_grad()
def test_open_magvit2_lfq(folder: Path):
    config, weights, io = load(folder)
    model = OpenMAGVIT2LFQ(tokenizer_config(config["constructor"], size_of(io["image"])))
    model.eval().load_state_dict(float32(weights))
    check_tokenizer(model, config, io)


def check_tokenizer(model: OpenMAGVIT2LFQ, config: dict[str, Any], io: Vectors) -> None:
    """Compare a tokenizer with every golden tensor."""
    images, widths = io["image"], config["constructor"]["factorized_bits"]
    groups = Groups(model.spec, widths)
    io.check("latent_pre_quant", model.latent(images))
    codes = model.encode(images)
    io.check("indices", to_number(codes))
    for name, ids in zip(("pre", "post"), groups.split(codes).unbind(-1), strict=True):
        io.check(f"indices_{name}", ids)
    out = model(images, entropy=True)
    assert torch.equal(out.quantized.codes.flatten(1, 2), codes)
    io.check("quantized", out.quantized.latent)
    for pictures in (out.images, model.decode(codes)):
        io.check("reconstruction", pictures)
    # of the official latent: a hundredth, by which both entropies divide, enlarges its rounding
    each, mean = model.quantize.entropies(io.get("latent_pre_quant", out.latent))
    io.check("train_per_sample_entropy", each)
    io.check("train_codebook_entropy", mean)
    # the difference of two entropies, of at most log 2 nats of each bit
    most = model.spec.bits * torch.tensor(2.0).log().item()
    told, loss = config["constructor"], out.quantized.losses["entropy"]
    kinds = ("sample_minimization_weight", "batch_maximization_weight")
    if any(name in told for name in kinds):  # ours weighs both alike
        low, high = (told.get(name, 1.0) for name in kinds)
        loss = low * each - high * mean
    io.check("train_entropy_loss", loss, size=most)
    io.check("train_commitment", out.quantized.losses["commitment"])
    if "codes_pre" in io:
        check_decoding(model, torch.stack((io["codes_pre"], io["codes_post"]), -1), groups, io)
    io.done()


def check_decoding(model: OpenMAGVIT2LFQ, ids: Tensor, groups: Groups, io: Vectors) -> None:
    """Pictures of the ids of groups (B, h, w, G)."""
    latent = model.quantize.decode(groups.unpack(ids))
    io.check("decode_codes_latent", latent)
    io.check("decode_codes_image", model.render(latent))
    if tuple(ids.shape[1:3]) == model.spec.grids[0]:
        io.check("decode_codes_image", model.decode(groups.join(ids.flatten(1, 2))))


def model_config(told: dict[str, Any]) -> OpenMAGVIT2Config:
    """Our settings of official ones."""
    groups = tuple(told["factorized_bits"])
    assert told["token_factorization"] and told["cls_token_num"] == 1
    side = math.isqrt(told["block_size"])
    return OpenMAGVIT2Config(
        grid=(side, side),
        channels=sum(groups),
        groups=groups,
        classes=told["class_num"],
        layers=told["spatial_n_layer"],
        intra_layers=told["factorized_n_layer"],
        heads=told["n_head"],
        dim=told["dim"],
        multiple_of=told.get("multiple_of", 256),
        norm_eps=told.get("norm_eps", 1e-5),
        rope_base=told.get("rope_base", 10000),
    )


def split_guidance(scales: list[float]) -> tuple[float, tuple[float, ...]]:
    """One scale, and the ratios that lead to each group's; upstream guides by no scale below 1."""
    scale = max([1.0, *scales])
    return scale, tuple(max(s - 1, 0) / (scale - 1) for s in scales) if scale > 1 else ()


@pytest.mark.parametrize("folder", folders("open_magvit2_gpt"))
@torch.no_grad()
def test_open_magvit2_gpt(folder: Path):
    config, weights, io = load(folder)
    scale, ratios = split_guidance(io["cfg_scale"].tolist() if "cfg_scale" in io else [])
    ours = replace(model_config(config["constructor"]), guidance_ratios=ratios)
    model = OpenMAGVIT2(ours).eval()
    model.load_state_dict(gpt_state(float32(weights)))
    check_model(model, scale, io)


def check_model(model: OpenMAGVIT2, scale: float, io: Vectors) -> None:
    """Compare a generator with every golden tensor."""
    groups, cond = model.head.groups, Cond(labels=io["class_ids"])
    codes = groups.join(torch.stack((io["tokens_pre"], io["tokens_post"]), -1))
    (everything,) = spans([model.spec.positions])
    logits = model.head.logits(model.hidden(codes, model.prepare(cond), everything), codes)
    for name, found in zip(("pre", "post"), logits, strict=True):
        io.check(f"tf_logits_{name}", found)
    ids, given = (io["tokens_pre"], io["tokens_post"]), zip(logits, groups.sizes, strict=True)
    expected = [
        F.cross_entropy(found.flatten(0, 1), i.flatten(), reduction="none").view_as(i)
        for (found, _), i in zip(given, ids, strict=True)
    ]
    torch.testing.assert_close(model.loss(codes, cond), sum(expected))

    if "gen_tokens_pre" in io:
        check_run(model, cond, Guidance(scale), io)
    io.done()


def check_run(model: OpenMAGVIT2, cond: Cond, guidance: Guidance, io: Vectors) -> None:
    """A run that draws the most probable ids."""
    groups = model.head.groups
    drawn = torch.stack((io["gen_tokens_pre"], io["gen_tokens_post"]), -1)
    replayed = replay(model, cond, guidance, groups.join(drawn))
    sure = torch.ones(cond.batch, dtype=torch.bool)
    for name, found, i in zip(("pre", "post"), replayed, drawn.unbind(-1), strict=True):
        for count in io.runs(rf"gen_logits_{name}_first(\d+)"):
            io.check(f"gen_logits_{name}_first{count}", found[:, : int(count)])
        sure &= most_probable(found, i)
    assert sure.any()
    draws(model, cond, guidance, groups.join(drawn), sure)


def replay(model: OpenMAGVIT2, cond: Cond, guidance: Guidance, codes: Tensor) -> list[Tensor]:
    """The guided logits (B, N, ids) of each group of a run that drew `codes`."""
    steps, branches = spans(model.blocks()), guidance.branches(cond)
    prepared, cache = model.prepare(branches), model.cache(branches.batch)
    found = list[list[Tensor]]()
    for i, span in enumerate(steps):
        guide = guidance.at(i, len(steps))
        h = model.hidden(guide.tile(codes), prepared, span, cache)
        logits = model.head.logits(h, guide.tile(codes[:, span.slots]))
        found.append([g.merge(x) for g, x in zip(model.head.guides(guide), logits, strict=True)])
    return [torch.cat(parts, 1) for parts in zip(*found, strict=True)]
