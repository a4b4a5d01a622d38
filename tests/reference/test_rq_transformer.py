"""RQ-Transformer and VILA-U's depth head against outputs of their official codes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden import SHARES, Vectors, float32, folders, load
from torch import Tensor

from builders import generate
from official_settings import vila_u_depth, vila_u_scale
from smalti.codes import Cond, Span
from smalti.engine.step import Known
from smalti.heads.depth import DepthHead
from smalti.interop.over_depth import vila_u_head
from smalti.interop.projects.rq import tables, transformer_sizes, transformer_state
from smalti.models.rq_transformer import RQTransformer
from smalti.nn.code_embedding import CodeVectors
from smalti.sampling.chance import Chance
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import ClassifierFree
from smalti.sampling.noise import Noise, SlotNoise

KAKAO = [*folders("rq_transformer"), *folders("rq_transformer_text")]
GENERATOR = "transformer."
MINE = ("codes", "cond_ids", "soft_targets", "cond_logits", "cond_loss")


def flat(codes: Tensor) -> Tensor:
    """Official codes (B, h, w, G, ...) as ours, (B, h * w, G, ...)."""
    return codes.flatten(1, 2)


def built(folder: Path) -> tuple[RQTransformer, Vectors]:
    """The model of a folder, and its tensors but those of the tokenizer (test_rq_vae.py)."""
    config, weights, io = load(folder)
    told = config["constructor"]
    sizes = transformer_sizes(told["transformer"])
    whole = float32(weights)
    tokenizer = {n.removeprefix("rqvae."): t for n, t in whole.items()}
    books = tables(tokenizer, sizes.depth, sizes.vocab, told["rqvae"].get("shared_codebook", False))
    sizes = replace(sizes, code_dim=books[0].shape[1], shared_vectors=len(books) == 1)
    state = {n.removeprefix(GENERATOR): t for n, t in whole.items() if n.startswith(GENERATOR)}
    model = RQTransformer(sizes).eval()
    model.load_state_dict(transformer_state(state, torch.cat(books), sizes))
    kept = {n: t for n, t in io.items() if n in MINE or n.startswith(("tf_", "greedy_"))}
    return model, Vectors(kept)


def condition(model: RQTransformer, ids: Tensor) -> Cond:
    if model.config.classes:
        return Cond(labels=ids[:, 0])
    return Cond(text=ids[..., None].float(), text_mask=torch.ones(ids.shape, dtype=torch.bool))


def greedy(model: RQTransformer, cond: Cond, codes: Tensor, known: Known | None = None) -> None:
    """Check that `codes` are the most probable ones given those before, within rounding, and that
    the engine draws them for the images that this leaves no other choice."""
    h = model.hidden(codes, model.prepare(cond), Span.whole(codes.shape[1]))
    sure = torch.ones(len(codes), dtype=torch.bool)
    wanted = torch.ones(codes.shape[:2], dtype=torch.bool) if known is None else ~known.mask
    for logits, ids in zip(model.head.logits(h, codes), codes.unbind(-1), strict=True):
        rounding = SHARES[torch.float32] * logits.abs().max()
        first, second = logits.topk(2).values.unbind(-1)
        chosen = logits.gather(-1, ids[..., None]).squeeze(-1)
        assert (chosen >= first - rounding)[wanted].all()
        sure &= (first - second > 2 * rounding).logical_or(~wanted).all(1)
    assert sure.any()
    noise = Noise.request(0, len(codes))
    drawn = generate(model, cond, noise, filters=Filters(top_k=1), known=known)
    assert torch.equal(drawn[sure], codes[sure])


@pytest.mark.parametrize("folder", KAKAO)
@torch.no_grad()
def test_rq_transformer(folder):
    model, io = built(folder)
    cond, codes = condition(model, io["cond_ids"]), flat(io["codes"])
    x = model.sequence(codes, model.prepare(cond), Span.whole(codes.shape[1]))
    h = x[:, -codes.shape[1] :]
    io.check("tf_logits", torch.stack(model.head.logits(h, codes), 2))
    loss = model.loss(codes, cond)
    io.check("tf_loss_hard", loss.mean() / model.config.depth)
    soft = model.soft_loss(codes, flat(io["soft_targets"]), cond)
    io.check("tf_loss_soft", soft.mean())
    if model.config.text_weight:
        io.check("cond_logits", model.text_logits(x))
        text = model.text_loss(x, cond)
        io.check("cond_loss", text.mean())
        both = 0.9 * loss.mean() / model.config.depth + 0.1 * text.mean()
        still = {"dropout": 0.0, "embedding_dropout": 0.0}
        model.config, trained = replace(model.config, **still), model.train()
        for layer in (*trained.layers, *trained.head.layers):
            layer.dropout = 0.0
        torch.testing.assert_close(trained.loss(codes, cond).mean() / model.config.depth, both)
        model.eval()
    for name in io.runs("greedy_codes(.*)"):
        drawn, known = io[f"greedy_codes{name}"], None
        if name:
            row, column = map(int, name.removeprefix("_from_").split("_"))
            before = torch.arange(codes.shape[1]) < row * drawn.shape[2] + column
            known = Known(flat(drawn), before.expand(len(drawn), -1))
        greedy(model, cond, flat(drawn), known)
    io.done()


def depth_head(folder: Path) -> tuple[DepthHead, float, Vectors]:
    """VILA-U's, with the vectors of its quantizer, the scale of guidance, and the folder's tensors
    of them."""
    config, weights, io = load(folder)
    told, whole = config["rqtransformer"], float32(weights)
    (*_, depth), vocab, shared = (
        told["block_size"],
        told["vocab_size"],
        config["quantizer"].get("shared_codebook", False),
    )
    books = tables({n: t for n, t in whole.items() if n.startswith("quantizer.")},
                   depth, vocab, shared)  # fmt: skip
    seen = CodeVectors(depth, vocab, told["input_embed_dim_1"], shared)
    head = DepthHead((vocab,) * depth, vila_u_depth(told), seen, told["input_embed_dim_2"]).eval()
    prefix = "rqtransformer."
    mine = {n.removeprefix(prefix): t for n, t in whole.items() if n.startswith(prefix)}
    head.load_state_dict(vila_u_head(mine) | {"seen.vectors": torch.cat(books)})
    kept = {n: t for n, t in io.items() if n.startswith(("depth_", "gen_", "body_"))}
    return head, vila_u_scale(config), Vectors(kept | {"codes": io["codes"]})


@pytest.mark.parametrize("folder", folders("vilau_rq"))
@torch.no_grad()
def test_the_depth_head_of_vila_u(folder):
    head, scale, io = depth_head(folder)
    h, codes = io["body_hidden"], flat(io["codes"])
    io.check("depth_logits", torch.stack(head.logits(h, codes), 2))
    io.check("depth_ce", head.losses(h, codes).mean())
    h, codes, guide = io["gen_hidden"], io["gen_codes"], ClassifierFree(scale)
    for d, logits in enumerate(head.logits(h, codes)):
        io.check(f"gen_cfg_logits_{d}", guide.merge(logits))
    io.check("gen_features", head.seen(codes))
    half = len(h) // 2
    noise = SlotNoise(Noise.request(0, half), torch.arange(h.shape[1]))
    drawn = head.sample(h, Chance(guide, noise, Filters(top_k=1)))
    io.check("gen_codes", guide.tile(drawn.codes))
    io.done()
