"""The language models of VILA-U and UniTok against outputs of the official codes of their parts:
how a stack of codes is read, learned, and drawn with guidance."""

from pathlib import Path

import pytest
import torch
from golden import Vectors, float32, folders, load
from torch import Tensor

from official_settings import vila_u_depth, vila_u_scale
from smalti.codes import Span
from smalti.interop.over_depth import vila_u_head
from smalti.interop.projects.rq import tables
from smalti.interop.projects.unitok import projection_state, table
from smalti.models.depth_language import DepthLanguage, StacksInTurn, tiny, tiny_joined
from smalti.models.language import tiny as tiny_language
from smalti.models.unified import Context
from smalti.sampling.chance import Chance
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import ClassifierFree
from smalti.sampling.noise import Noise, SlotNoise
from smalti.text.sequence import Part, rows_of
from smalti.tokenizers.quantize.multicode import MulticodeQuantizer

HEAD = "rqtransformer."


def vila_u(folder: Path) -> tuple[DepthLanguage, Vectors]:
    """A small language model with the head and the vectors of a folder, and what is of them."""
    config, weights, io = load(folder)
    told, whole = config["rqtransformer"], float32(weights)
    (height, width, depth), vocab = told["block_size"], told["vocab_size"]
    shared = config["quantizer"].get("shared_codebook", False)
    language = tiny_language(dim=told["input_embed_dim_2"], heads=1)
    model = DepthLanguage(tiny(
        language=language, grid=(height, width), codes=vocab, depth=depth, shared=shared,
        code_dim=told["input_embed_dim_1"], head=vila_u_depth(told),
    )).eval()  # fmt: skip
    books = tables(
        {n: t for n, t in whole.items() if n.startswith("quantizer.")}, depth, vocab, shared
    )
    mine = {n.removeprefix(HEAD): t for n, t in whole.items() if n.startswith(HEAD)}
    model.head.load_state_dict(vila_u_head(mine) | {"seen.vectors": torch.cat(books)})
    kept = ("depth_", "gen_", "body_", "codes", "embed_code")
    return model, Vectors({n: t for n, t in io.items() if n.startswith(kept)})


def drawn(model: DepthLanguage, states: Tensor, guide: ClassifierFree) -> Tensor:
    """The likeliest stacks of states (2 B, 1, D) of both branches, by what draws pictures."""
    picture = Part(model.spec.empty(1)[0], model.spec)
    rows = rows_of([[picture]] * len(states), model.wrapping)
    drawer = StacksInTurn(model, rows)
    drawer.hidden = lambda *_: states  # type: ignore[method-assign]
    half = len(states) // 2
    noise = SlotNoise(Noise.request(0, half), torch.arange(1))
    codes, span = model.spec.empty(half), Span(torch.arange(1), 1, 0)
    chance = Chance(guide, noise, Filters(top_k=1))
    return drawer.draw(codes, Context(rows, None), span, None, chance).codes


@pytest.mark.parametrize("folder", folders("vilau_rq"))
@torch.no_grad()
def test_vila_u(folder):
    model, io = vila_u(folder)
    h, codes = io["body_hidden"], io["codes"].flatten(1, 2)
    io.check("embed_code", model.book(io["codes"]))
    io.check("depth_logits", torch.stack(model.head.logits(h, codes), 2))
    losses = model.losses(h.flatten(0, 1), codes.flatten(0, 1))
    io.check("depth_ce", losses.mean())
    guide = ClassifierFree(vila_u_scale(load(folder)[0]))
    found = torch.stack(model.head.logits(io["gen_hidden"], io["gen_codes"]), 2)
    for d in map(int, io.runs("gen_cfg_logits_(.+)")):
        io.check(f"gen_cfg_logits_{d}", guide.merge(found[:, :, d]))
    io.check("gen_features", model.book(io["gen_codes"]))
    io.check("gen_codes", guide.tile(drawn(model, io["gen_hidden"], guide)))
    io.done()


@pytest.mark.parametrize("folder", folders("vilau_rq"))
@torch.no_grad()
def test_a_row_of_vila_u(folder):
    """A picture is read by its sums, and its loss is that of the states before it."""
    model, io = vila_u(folder)
    picture = Part(io["codes"].flatten(1, 2)[0], model.spec)
    rows = rows_of([[Part(torch.tensor([1, 3])), picture]], model.wrapping)
    begin, count = 3, model.spec.positions
    x = model.inputs(rows, 0, rows.ids.shape[1])[0, begin : begin + count]
    io.check("embed_code", model.book(io["codes"]))
    torch.testing.assert_close(x, model.into(io["embed_code"][0].flatten(0, 1)))
    states = io["body_hidden"][:1]
    before = torch.cat((states.new_zeros(1, begin - 1, states.shape[2]), states), 1)
    model.read = lambda *_: torch.nn.functional.pad(before, (0, 0, 0, 2))  # type: ignore
    term = model.terms(rows, Noise.request(0, 1))["codes"]
    assert int(term.where.sum()) == count
    wanted = torch.nn.functional.cross_entropy(
        io["depth_logits"][0].flatten(0, 1), picture.content.flatten()
    )
    torch.testing.assert_close(term.values[term.where].mean(), wanted)


@pytest.mark.parametrize("folder", folders("unitok_quant"))
@torch.no_grad()
def test_unitok_reads(folder):
    """The vectors of codes, and the attention behind them, which golden vectors have in both
    directions too."""
    config, weights, io = load(folder)
    told, whole = config | config.get("constructor", {}), float32(weights)
    count, narrow, wide = told["num_codebooks"], told["vocab_width"], told["embed_dim"]
    heads, codes = told.get("num_heads") or wide // narrow, told["vocab_size"] // count
    length = io["idx"].shape[-1]
    model = DepthLanguage(tiny_joined(
        grid=(1, length), codes=codes, depth=count, code_dim=narrow // count, width=wide,
        heads=heads,
    )).eval()  # fmt: skip
    quantize = MulticodeQuantizer(codes, narrow, count)
    quantize.load_state_dict({"embedding.weight": table(whole, count)})
    model.learn_from(quantize)
    state, begin = projection_state(whole), "post_quant_proj."
    mine = {n.removeprefix(begin): t for n, t in state.items() if n.startswith(begin)}
    model.projection.load_state_dict(mine)
    model.projection.attn.causal = bool(told.get("causal", False))
    vectors = model.book.each(io["idx"].mT).flatten(-2)
    io.check("codes", vectors)
    io.check("post", model.projection(vectors))
    part = Part(io["idx"][0].mT, model.spec)
    rows = rows_of([[part]], model.wrapping)
    torch.testing.assert_close(
        model.stacks(rows, 0, length + 2), model.into(model.projection(vectors)[0])
    )
    for name in ("tokens", "quant_proj", "forward_quant", "vq_loss"):  # of the tokenizer
        io.get(name)
    io.done()
