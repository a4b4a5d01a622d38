"""VAR's transformer against outputs of the official code, with the tokenizer it was drawn with."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, float32, folders, load
from greedy import draws, most_probable, replayed
from safetensors.torch import load_file
from torch import Tensor

from official_settings import vae_config, var_config
from smalti.codes import Cond
from smalti.engine.causal import Known, spans
from smalti.interop.projects.var import renamed, vae_state, var_state
from smalti.models.var import VAR
from smalti.pipeline.editing import known_positions
from smalti.sampling.chance import Chance
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise, SlotNoise
from smalti.tokenizers.multiscale_vqvae import MultiScaleVQVAE


class Replayed(SlotNoise):
    """The Gumbel noise of an official run."""

    exponential: Tensor

    def gumbel(self, width: int) -> Tensor:
        return -self.exponential.log()


def tokenizer_of(folder: Path, config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and weights, as stored, of the tokenizer that a transformer's folder names."""
    settings, _, _ = load((folder / config["vae_config"]).parent)
    return settings, load_file(folder / config["vae_weights"])


@pytest.mark.parametrize("folder", folders("var_transformer"))
def test_var(folder: Path):
    config, weights, io = load(folder)
    settings, stored = tokenizer_of(folder, config)
    shape = vae_config(settings["constructor"], **settings.get("encoder_decoder_overrides", {}))
    tokenizer = MultiScaleVQVAE(shape).eval()
    tokenizer.load_state_dict(vae_state(float32(stored)))
    quantizer = {"phis": shape.phis, "phi_ratio": shape.phi_ratio}
    model = VAR(var_config(config["constructor"], shape.vocab, shape.dim, **quantizer)).eval()
    model.load_state_dict(var_state(float32(weights), tokenizer.state_dict()))
    check_var(model, tokenizer, config, io)


def check_var(model: VAR, tokenizer: Any, config: dict[str, Any], io: Vectors) -> None:
    """Compare a generator with every golden tensor."""
    cond, sizes = Cond(labels=io["labels"]), model.sizes
    codes = torch.cat(io.series("gt_idx_"), 1) if "gt_idx_0" in io else None
    if codes is not None:
        check_teacher_forced(model, codes, cond, io)
        check_gradients(model, codes, cond, io)
    guidance = Guidance(1 + config.get("cfg", 0.0), "linear")
    with torch.no_grad():
        for name in io.runs("(.+)_tokens_0"):
            tokens, known = torch.cat(io.series(f"{name}_tokens_"), 1), None
            if f"{name}_mask" in io and codes is not None:
                keep = io[f"{name}_mask"] > 0
                mask = known_positions(model.spec, keep[None].expand(cond.batch, -1, -1))
                known = Known(codes, mask)
            drawn = tokens if known is None else torch.where(known.mask, known.codes, tokens)
            steps = replayed(model, cond, guidance, drawn)
            for k, logits in enumerate(steps):
                io.check(f"{name}_cfg_logits_{k}", logits)
            sure = torch.stack([
                most_probable(logits, part)
                for logits, part in zip(steps, tokens.split(sizes, 1), strict=True)
            ])  # fmt: skip
            draws(model, cond, guidance, drawn, sure.all(0), known=known)
            check_picture(tokenizer, drawn, name, io)
        if "smooth_exp_0" in io:
            check_smooth(model, tokenizer, cond, guidance, config, io)
    io.done()


@torch.no_grad()
def check_teacher_forced(model: VAR, codes: Tensor, cond: Cond, io: Vectors) -> None:
    io.check("var_input", model.quantize.inputs(codes))
    (everything,) = spans([model.spec.positions])
    for condition, name in ((cond, "tf_logits"), (cond.null(), "tf_logits_uncond")):
        h = model.hidden(codes, model.prepare(condition), everything)
        io.check(name, model.head.logits(h))
    io.check("train_loss", model.loss(codes, cond).mean())


def check_gradients(model: VAR, codes: Tensor, cond: Cond, io: Vectors) -> None:
    """Gradients by official names, with _ for a dot; and block0_qkv."""
    model.zero_grad()
    loss = model.loss(codes, cond).mean()
    loss.backward()
    io.check("train_loss", loss)
    parameters = dict(model.named_parameters())
    for name in io.runs("grad_(.+)"):
        short = re.sub(r"^block(\d+)_qkv$", r"blocks.\1.attn.mat_qkv.weight", name)
        official = re.sub(r"_(weight|bias)$", r".\1", short)
        gradient = parameters[renamed(official)].grad
        assert gradient is not None
        io.check(f"grad_{name}", gradient, 1e-4)
    norms = [p.grad.norm() for p in parameters.values() if p.grad is not None]
    io.check("total_grad_norm", torch.stack(norms).norm(), 1e-4)


def check_picture(
    tokenizer: Any, drawn: Tensor, name: str, io: Vectors, share: float | None = None
) -> None:
    """Latent and image of codes (B, N) or vectors (B, N, C)."""
    io.check(f"{name}_fhat", tokenizer.quantize.decode(drawn), share)
    io.clamped(f"{name}_image01", (tokenizer.decode(drawn) + 1) / 2, 0, 1, share)


def check_smooth(
    model: VAR, tokenizer: Any, cond: Cond, guidance: Guidance, config: dict[str, Any], io: Vectors
) -> None:
    """The official run with `more_smooth`, its Gumbel noise replayed. The golden folder says its
    top-k and top-p in words."""
    words = config["tensors"]["smooth_*"]
    top_k, top_p = (re.search(rf"top_{x}=([\d.]*\d)", words) for x in "kp")
    assert top_k and top_p, words
    filters = Filters(top_k=int(top_k[1]), top_p=float(top_p[1]), smooth=True)
    noise, branches = Noise.request(0, cond.batch), guidance.branches(cond)
    prepared, cache = model.prepare(branches), model.cache(branches.batch)
    steps, drawn = spans(model.blocks()), list[Tensor]()
    for i, span in enumerate(steps):
        guide = guidance.at(i, len(steps))
        numbers = Replayed(noise, span.slots)
        numbers.exponential = io[f"smooth_exp_{i}"]
        read = torch.cat(drawn, 1) if drawn else model.spec.empty(cond.batch)
        draw = model.draw(read, prepared, span, cache, Chance(guide, numbers, filters))
        logits = guide.merge(model.head.logits(draw.h))
        io.check(f"smooth_cfg_logits_{i}", logits, 1e-4)
        check_filtered(filters, logits, f"smooth_filtered_{i}", io)
        assert draw.vectors is not None
        drawn.append(draw.vectors)
    # the mixture's softmax divides logits, whose rounding grows with guidance, by down to 0.005
    check_picture(tokenizer, torch.cat(drawn, 1), "smooth", io, 5e-4 * guidance.scale)


def check_filtered(filters: Filters, logits: Tensor, name: str, io: Vectors) -> None:
    if name in io:
        ours, kept = filters(logits), io[name].isfinite()
        assert torch.equal(ours.isfinite(), kept)
        io.check(name, ours, 1e-4)
