"""VAR's transformer against outputs of the official code, with the tokenizer it was drawn with.

Tolerances: 1e-5 on teacher-forced logits, 1e-5 * 2 * (1 + cfg) on guided ones, 3e-5 on latents and
images, 1e-4 of their size on gradients; tokens are exact.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, folders, load
from torch import Tensor

from smalti.codes import Cond
from smalti.editing import known_positions
from smalti.engine.causal import Known, generate, spans, stream
from smalti.interop.var import vae_config, vae_state, var_config, var_state
from smalti.models.var import VAR
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise, SlotNoise
from smalti.tokenizers.multiscale_vqvae import MultiScaleVQVAE

GREEDY = Filters(top_k=1)


def close(ours: Tensor, golden: Tensor, atol: float) -> None:
    torch.testing.assert_close(ours.reshape(golden.shape), golden, rtol=0, atol=atol)


class Replayed(SlotNoise):
    """The Gumbel noise of an official run."""

    exponential: Tensor

    def gumbel(self, width: int) -> Tensor:
        return -self.exponential.log()


@pytest.mark.parametrize("folder", folders("var_transformer"))
def test_var(folder: Path):
    config, weights, io = load(folder)
    told, found, _ = load((folder / config["vae_config"]).parent)
    assert (folder / config["vae_weights"]).samefile(
        (folder / config["vae_config"]).parent / "weights.safetensors"
    )
    shape = vae_config(told["constructor"], **told["encoder_decoder_overrides"])
    tokenizer = MultiScaleVQVAE(shape).eval()
    tokenizer.load_state_dict(vae_state({k: v.float() for k, v in found.items()}))
    quantizer = {"phis": shape.phis, "phi_ratio": shape.phi_ratio}
    model = VAR(var_config(config["constructor"], shape.vocab, shape.dim, **quantizer)).eval()
    model.load_state_dict(var_state(weights, tokenizer.state_dict()))
    check_var(model, tokenizer, config, io)


def check_var(model: VAR, tokenizer: Any, config: dict[str, Any], io: Vectors) -> None:
    """Compare a generator with every golden tensor."""
    cond = Cond(labels=io["labels"])
    codes = torch.cat([io[f"gt_idx_{k}"] for k in range(len(model.blocks))], 1)
    check_teacher_forced(model, codes, cond, io)
    check_gradients(model, codes, cond, io)
    with torch.no_grad():
        guidance = Guidance(1 + config["cfg"], "linear")
        atol = 1e-5 * 2 * guidance.scale
        drawn, steps = greedy(model, cond, guidance)
        for k, logits in enumerate(steps):
            close(logits, io[f"greedy_cfg_logits_{k}"], atol)
            assert torch.equal(logits.argmax(-1), io[f"greedy_tokens_{k}"])
        for bucket in (1, 8):
            noise = Noise.request(0, cond.batch)
            assert torch.equal(drawn, generate(model, cond, noise, guidance, GREEDY, bucket=bucket))
        check_picture(tokenizer, drawn, "greedy", io)
        check_smooth(model, tokenizer, cond, guidance, io)
        keep = io["edit_mask"] > 0
        known = Known(codes, known_positions(model.spec, keep[None].expand(cond.batch, -1, -1)))
        edited, steps = greedy(model, cond, guidance, known)
        for k, logits in enumerate(steps):
            assert torch.equal(logits.argmax(-1), io[f"edit_tokens_{k}"])
        check_picture(tokenizer, edited, "edit", io)
    io.done()


@torch.no_grad()
def check_teacher_forced(model: VAR, codes: Tensor, cond: Cond, io: Vectors) -> None:
    close(model.quantize.inputs(codes), io["var_input"], 1e-5)
    (everything,) = spans([model.spec.positions])
    for condition, name in ((cond, "tf_logits"), (cond.null(), "tf_logits_uncond")):
        h = model.hidden(codes, model.prepare(condition), everything)
        close(model.head.logits(h), io[name], 1e-5)
    close(model.loss(codes, cond).mean(), io["train_loss"], 1e-5)


def check_gradients(model: VAR, codes: Tensor, cond: Cond, io: Vectors) -> None:
    model.zero_grad()
    loss = model.loss(codes, cond).mean()
    loss.backward()
    close(loss.detach(), io["train_loss"], 1e-5)
    ours = {
        "grad_word_embed_weight": model.word_embed.weight,
        "grad_pos_start": model.start_pos,
        "grad_block0_qkv": model.layers[0].attention.wqkv.weight,
    }
    for name, parameter in ours.items():
        golden = io[name]
        close(parameter.grad, golden, 1e-4 * golden.abs().max().item())
    norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
    torch.testing.assert_close(torch.stack(norms).norm(), io["total_grad_norm"], rtol=1e-4, atol=0)


def greedy(
    model: VAR, cond: Cond, guidance: Guidance, known: Known | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Codes (B, N), and the guided logits of each scale, of which the codes are the largest."""
    noise, logits = Noise.request(0, cond.batch), []
    branches, codes = guidance.branches(cond), model.spec.empty(cond.batch)
    prepared, cache = model.prepare(branches), model.cache(branches.batch)
    steps = spans(model.blocks)
    for i, span in enumerate(steps):
        guide = guidance.at(i, len(steps))
        h = model.hidden(guide.tile(codes), prepared, span, cache)
        logits.append(guide.merge(model.head.logits(h)))
        new = logits[-1].argmax(-1)
        if known is not None:
            new = torch.where(known.mask[:, span.slots], known.codes[:, span.slots], new)
        codes[:, span.slots] = new
    *_, last = stream(model, cond, noise, guidance, GREEDY, known)
    assert torch.equal(codes, last.codes)
    return codes, logits


def check_picture(
    tokenizer: Any, drawn: Tensor, name: str, io: Vectors, atol: float = 3e-5
) -> None:
    """Latent and image of codes (B, N) or vectors (B, N, C)."""
    close(tokenizer.quantize.decode(drawn), io[f"{name}_fhat"], atol)
    image = (tokenizer.decode(drawn).clamp(-1, 1) + 1) / 2
    close(image, io[f"{name}_image01"], atol)


def check_smooth(model: VAR, tokenizer: Any, cond: Cond, guidance: Guidance, io: Vectors) -> None:
    """The official run with top-k 30, top-p 0.9 and `more_smooth`, its Gumbel noise replayed."""
    filters, noise = Filters(top_k=30, top_p=0.9, smooth=True), Noise.request(0, cond.batch)
    branches, vectors = guidance.branches(cond), None
    prepared, cache = model.prepare(branches), model.cache(branches.batch)
    steps = spans(model.blocks)
    for i, span in enumerate(steps):
        guide = guidance.at(i, len(steps))
        numbers = Replayed(noise.uniform(span.slots), noise, span.slots)
        numbers.exponential = io[f"smooth_exp_{i}"]
        read = model.spec.empty(cond.batch) if vectors is None else vectors
        draw = model.draw(read, prepared, span, cache, guide, numbers, filters)
        logits = guide.merge(model.head.logits(draw.h))
        close(logits, io[f"smooth_cfg_logits_{i}"], 1e-5 * 4 * guidance.scale)
        golden = io[f"smooth_filtered_{i}"]
        kept = golden.isfinite()
        filtered = filters(logits)
        assert torch.equal(filtered.isfinite(), kept)
        close(filtered[kept], golden[kept], 1e-5 * 4 * guidance.scale)
        if vectors is None:
            vectors = draw.vectors.new_zeros(cond.batch, model.spec.positions, model.config.latent)
        vectors[:, span.slots] = draw.vectors
    # the mixture's softmax divides logits, 1e-6 * scale off, by temperatures down to 0.005
    check_picture(tokenizer, vectors, "smooth", io, atol=5e-4 * guidance.scale)
