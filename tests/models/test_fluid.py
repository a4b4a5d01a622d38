"""Fluid's four models: what each order reads, what is computed once, and what its sizes weigh."""

from dataclasses import replace

import pytest
import torch

from builders import build, generate, models, random_codes, random_cond
from smalti.codes import Cond, Turn
from smalti.models import fluid
from smalti.models.fluid import Fluid
from smalti.nn.cross import CrossAttention
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.sampling.reveal import Reveal
from smalti.sampling.solvers import Solver

B = 3
BITS = 1e-5
FEW = Solver(steps="3")
RANDOM = ["fluid", "fluid-discrete", "fluid-text"]
RASTER = ["fluid-raster", "fluid-raster-text", "fluid-raster-continuous"]


def built(name: str) -> Fluid:
    return build(*models()[name])


def turn(known: torch.Tensor, wanted: torch.Tensor | None = None) -> Turn:
    return Turn(known, wanted, known.shape[1])


def some(model: Fluid, share: float = 0.5, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(B, model.spec.positions, generator=generator) < share


def test_the_last_layer_works_for_wanted_positions_alone():
    model, rows = built("fluid"), []
    for layer in model.layers:
        layer.feed_forward.register_forward_pre_hook(lambda _, a: rows.append(a[0].shape[1]))
    prepared = model.prepare(random_cond(model, B))
    wanted = torch.tensor([[3, 1]] * B)
    h = model.hidden(random_codes(model.spec, B), prepared, turn(some(model), wanted))
    assert rows == [16, 2] and h.shape == (B, 2, 32)


@pytest.mark.parametrize("name", RANDOM)
@torch.no_grad()
def test_the_loss_reads_what_is_known(name):
    model = built(name)
    codes, cond, known = random_codes(model.spec, B), random_cond(model, B), some(model)
    loss = model.loss(codes, cond, known=known)
    nothing = model.loss(codes, cond)
    assert torch.equal(nothing, model.loss(codes, cond, known=torch.zeros_like(known)))
    shown = known.view(*known.shape, *[1] * (codes.dim() - 2))
    other = torch.where(shown, random_codes(model.spec, B, seed=1), codes)
    assert not torch.equal(loss[~known], model.loss(other, cond, known=known)[~known])
    assert torch.equal(nothing[~known], model.loss(other, cond)[~known]), "nothing is known"


@torch.no_grad()
def test_the_noise_of_a_diffusion_loss_is_an_argument():
    model = built("fluid")
    codes, cond = random_codes(model.spec, B), random_cond(model, B)
    default = model.loss(codes, cond)
    assert torch.equal(default, model.loss(codes, cond, noise=Noise.request(0, B)))
    assert not torch.isclose(default, model.loss(codes, cond, noise=Noise.request(1, B))).any()


@torch.no_grad()
def test_smoothing_spreads_a_share_of_the_target_over_all_codes():
    model = built("fluid-discrete")
    codes, cond = random_codes(model.spec, B), random_cond(model, B)
    plain = model.loss(codes, cond)
    every = torch.stack([model.loss(torch.full_like(codes, code), cond) for code in range(32)])
    expected = 0.9 * plain + 0.1 * every.mean(0)
    model.head.smoothing = 0.1
    assert torch.equal(model.loss(codes, cond), plain), "only training smooths"
    smoothed = model.train().loss(codes, cond)
    torch.testing.assert_close(smoothed, expected, rtol=0, atol=1e-4)


def test_both_orders_have_the_same_weights():
    states = [built(name).state_dict() for name in ("fluid", "fluid-raster-continuous")]
    shapes = [{name: t.shape for name, t in state.items()} for state in states]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", [*RANDOM, *RASTER])
def test_what_the_condition_alone_decides_is_computed_once(name):
    model, calls = built(name), []
    for part in model.modules():
        if isinstance(part, CrossAttention):
            part.wkv.register_forward_hook(lambda *_: calls.append("keys"))
        if isinstance(part, fluid.Aligner):
            part.register_forward_hook(lambda *_: calls.append("text"))
    more = {"reveal": Reveal(4)} if model.loop == "masked" else {}
    cond = random_cond(model, B)
    generate(model, cond, Noise.request(0, B), Guidance(2.0), solver=FEW, **more)
    assert calls == ["text"] * name.endswith("text") + ["keys"] * len(model.layers)


@pytest.mark.parametrize("name", ["fluid-text", "fluid-raster-text"])
@torch.no_grad()
def test_the_null_text_has_no_length(name):
    model = built(name)
    codes, cond = random_codes(model.spec, B), random_cond(model, B)
    other = random_cond(model, B, seed=1)
    assert not torch.equal(cond.text_mask, other.text_mask)
    losses = [model.loss(codes, c.null()) for c in (cond, other)]
    torch.testing.assert_close(*losses, rtol=0, atol=BITS)
    empty = Cond.of_text(torch.zeros_like(cond.text), torch.zeros_like(cond.text_mask))
    torch.testing.assert_close(model.loss(codes, empty), losses[0], rtol=0, atol=BITS)


@pytest.mark.parametrize(("size", "expected"), [("150M", 150e6), ("369M", 369e6), ("665M", 665e6)])
def test_sizes(size, expected):
    with torch.device("meta"):
        model = fluid.fluid(fluid.FluidConfig(**fluid.SIZES[size]))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"grid": (4, 0)}, r"grid must be two positive integers, got \(4, 0\)"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"class_length": 0}, "class_length must be at least 1, got 0"),
        ({"order": "spiral"}, "order must be one of random, raster, got 'spiral'"),
        ({"aligner_layers": -1}, "aligner_layers must be 0 or more, got -1"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"heads": 3}, "dim must be a multiple of heads, got 32, 3"),
        ({"vocab": 8}, "or bits as channels with vocab 2, got vocab 8, channels 4"),
        ({"channels": 0}, "or bits as channels with vocab 2, got vocab 0, channels 0"),
        ({"classes": 0}, "either classes or a text, got classes 0, text_length 0"),
        ({"text_length": 6}, "either classes or a text, got classes 5, text_length 6"),
    ],
)
def test_bad_configurations(bad, message):
    with pytest.raises(ValueError, match=message):
        replace(fluid.tiny(), **bad)


def test_bad_calls():
    text, random, raster = built("fluid-text"), built("fluid"), built("fluid-raster")
    with pytest.raises(ValueError, match="text-conditional: give text and text_mask"):
        text.prepare(random_cond(random, B))
    with pytest.raises(ValueError, match="class-conditional: give labels"):
        raster.prepare(random_cond(text, B))
