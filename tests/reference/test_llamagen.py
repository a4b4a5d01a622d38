"""LlamaGen's tokenizer and GPT against outputs of the official code."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, float32, folders, load, size_of
from greedy import draws, most_probable, replayed
from torch import Tensor

from official_settings import gpt_config, vq_config
from smalti.codes import Cond
from smalti.engine.causal import spans
from smalti.interop.projects.llamagen import gpt_state, vq_state
from smalti.models.llamagen import LlamaGen
from smalti.sampling.guidance import Guidance
from smalti.tokenizers.vqgan import VQGAN


@pytest.mark.parametrize("folder", folders("llamagen_vq"))
@torch.no_grad()
def test_llamagen_vq(folder: Path):
    config, weights, io = load(folder)
    args = dict(config["constructor"])
    settings = args.pop("ModelArgs", {})
    model = VQGAN(vq_config(settings, size_of(io["image"]), **args)).eval()
    model.load_state_dict(vq_state(float32(weights)))
    check_vq(model, config, io)


def check_vq(model: VQGAN, config: dict[str, Any], io: Vectors) -> None:
    """Compare a tokenizer with every golden tensor."""
    images = io["image"]
    assert model.config.factor == config["downsample"]
    io.check("encoder_out", model.encoder(images))
    io.check("latent_pre_quant", model.latent(images))
    codes = model.encode(images)
    io.check("indices", codes)
    out = model(images, entropy=True)
    assert torch.equal(out.quantized.codes.flatten(1), codes)
    io.check("latent_pre_quant", out.latent)
    io.check("quantized_ste", out.quantized.latent)
    for pictures in (out.images, model.decode(codes)):
        io.check("reconstruction", pictures)

    losses, settings = out.quantized.losses, config["constructor"].get("ModelArgs", {})
    beta, ratio = settings.get("commit_loss_beta", 0.25), settings.get("entropy_loss_ratio", 0.0)
    io.check("train_vq_loss", losses["codebook"])
    io.check("train_commit_loss", beta * losses["commitment"])
    # the difference of two entropies, of at most log V nats each, at a temperature of 0.01
    most = ratio * torch.tensor(model.config.vocab).log().item()
    io.check("train_entropy_loss", ratio * losses["entropy"], size=most)
    if "codes" in io:
        batch, _, height, width = io["code_shape"].tolist()
        grid = io["codes"].view(batch, height, width)
        latent = model.quantize.decode(grid)
        io.check("decode_code_latent", latent)
        io.check("decode_code_image", model.render(latent))
        if (height, width) == model.spec.grids[0]:
            io.check("decode_code_image", model.decode(grid.flatten(1)))
    io.done()


def condition(io: Vectors) -> Cond:
    if "class_ids" in io:
        return Cond(labels=io["class_ids"])
    return Cond(text=io["caption"], text_mask=io["caption_mask"].bool())


def guidance_of(scale: float, interval: int, steps: int) -> Guidance:
    """The official settings in our convention: guidance is on above 1, for interval + 2 steps."""
    if scale <= 1:
        return Guidance()
    if interval < 0:
        return Guidance(scale)
    return Guidance(scale, "interval", start=0, stop=min((interval + 2) / steps, 1))


def fitting(weights: dict[str, Tensor], constructor: dict[str, Any]) -> dict[str, Tensor]:
    """Official weights without rows that upstream never reads, as its unconditional text has 120,
    also where `cls_token_num` is smaller; and with a row for the null class, which there is none of
    where `class_dropout_prob` is 0."""
    weights = float32(weights)
    name = "cls_embedding.uncond_embedding"
    if name in weights:
        weights[name] = weights[name][: constructor.get("cls_token_num", 1)]
    elif not constructor.get("class_dropout_prob", 0.1):
        name = "cls_embedding.embedding_table.weight"
        weights[name] = torch.nn.functional.pad(weights[name], (0, 0, 0, 1))
    return weights


@pytest.mark.parametrize("folder", folders("llamagen_gpt"))
@torch.no_grad()
def test_llamagen_gpt(folder: Path):
    config, weights, io = load(folder)
    model = LlamaGen(gpt_config(config["constructor"])).eval()
    weights = fitting(weights, config["constructor"])
    model.load_state_dict(gpt_state(weights, model.config))
    check_gpt(model, config, io)


def check_gpt(model: LlamaGen, config: dict[str, Any], io: Vectors) -> None:
    """Compare a generator with every golden tensor."""
    if derived := config.get("derived"):
        assert model.config.head_dim == derived["head_dim"]
        assert model.config.ffn_dim == derived["ffn_hidden"]
        assert model.config.grid == (derived["grid"], derived["grid"])
    io.check("rope_table", model.rope_table())
    assert not model.rope_table()[: model.config.prefix].any()

    codes, cond = io["token_ids"], condition(io)
    (everything,) = spans([model.spec.positions])
    logits = model.head.logits(model.hidden(codes, model.prepare(cond), everything))
    io.check("tf_logits", logits)
    # upstream's text training weights each sample by `valid`
    weight = io.get("valid", torch.ones(len(codes)))[:, None].expand_as(codes)
    for training in (False, True):  # which may take different paths through attention
        with torch.set_grad_enabled(training):
            loss = model.loss(codes, cond).detach()  # (B, N)
        io.check("tf_loss", (loss * weight).sum() / weight.sum().clamp(min=1))
    check_runs(model, cond, io)
    io.done()


def check_runs(model: LlamaGen, cond: Cond, io: Vectors) -> None:
    """Greedy runs with the guidance of the folder (cfg) and without (nocfg)."""
    scale, interval = float(io.get("cfg_scale", 1)), int(io.get("cfg_interval", -1))
    settings = {"cfg": (scale, interval), "nocfg": (1.0, -1)}
    for name in io.runs("gen_(.+)_tokens"):
        tokens, guidance = (
            io[f"gen_{name}_tokens"],
            guidance_of(*settings[name], len(model.blocks())),
        )
        logits = torch.cat(replayed(model, cond, guidance, tokens), 1)
        for count in io.runs(rf"gen_{name}_logits_first(\d+)"):
            io.check(f"gen_{name}_logits_first{count}", logits[:, : int(count)])
        draws(model, cond, guidance, tokens, most_probable(logits, tokens))
