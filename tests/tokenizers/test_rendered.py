"""Features as codes: what a ViT sees, forms, and a renderer that makes pictures of them."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from builders import build
from smalti.models import towers
from smalti.models.towers import Towers
from smalti.nn.adapters import AdapterConfig
from smalti.nn.features import apart, formed, reduced
from smalti.sampling.solvers import Solver, path
from smalti.tokenizers import rendered
from smalti.tokenizers.rendered import Rendered, RenderedConfig
from smalti.train.rendering import RenderingConfig

FORMS = ("plain", "unit", "softmax", "unit softmax")


def made(**changes) -> Rendered:
    return build(Rendered, rendered.tiny(**changes))


def pictures(size: int, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, size, size, generator=generator) * 2 - 1


@pytest.mark.parametrize("form", FORMS)
def test_features_have_their_form(form):
    codes = made(form=form).encode(pictures(16))
    if form == "unit":
        torch.testing.assert_close(codes.norm(dim=-1), torch.ones(2, 4))
    elif form == "plain":
        assert (codes.norm(dim=-1) - 1).abs().min() > 0.01
    else:
        torch.testing.assert_close(codes.sum(-1), torch.ones(2, 4))
    assert apart(codes, codes, form).shape == (2, 4)


def test_a_smaller_grid_is_the_mean_of_its_cells():
    """Of patches, between whose centres nothing lies."""
    hidden = torch.randn(2, 16, 5)
    cells = hidden.view(2, 2, 2, 2, 2, 5).mean((2, 4)).flatten(1, 2)
    torch.testing.assert_close(reduced(hidden, (2, 2)), cells)
    assert reduced(hidden, (4, 4)) is hidden


def test_what_predictions_lose():
    wanted, found = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])
    assert apart(wanted, found, "plain").item() == 1.0
    unit = formed(wanted, "unit"), formed(found, "unit")
    assert apart(*unit, "unit").item() == pytest.approx(-0.96)
    shares = formed(wanted / 20, "softmax"), formed(found / 20, "softmax")
    nats = F.cross_entropy(found / 20 / 0.07, shares[0]).item()
    assert apart(*shares, "softmax").item() == pytest.approx(nats, rel=1e-5)


@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_the_vit_is_that_of_towers(kind):
    """Hidden states of patches before the last norm."""
    torch.manual_seed(0)
    config = replace(towers.tiny(), kind=kind, start=0 if kind == "clip" else None)
    seen = Towers(config).eval()
    base = rendered.tiny(size=(8, 8), form="plain")
    tokenizer = Rendered(base.seeing(config)).eval()
    tokenizer.see_with(seen)
    images, vision = pictures(8), seen.vision
    if isinstance(vision.norm, torch.nn.LayerNorm):
        vision.norm.register_forward_hook(lambda module, given, found: given[0])
    hidden = vision(seen.normalised(images))[:, -4:]
    torch.testing.assert_close(tokenizer.encode(images), hidden)


def test_a_picture_is_the_end_of_a_flow():
    """Step by step, with guidance, of the noise that there always is."""
    tokenizer = made(evaluations=3, guidance=2.0)
    codes, nothing = tokenizer.encode(pictures(16)), torch.zeros(2, dtype=torch.bool)
    x, renderer = tokenizer.noise(codes), tokenizer.renderer
    assert torch.equal(x[0], x[1]) and 0.8 < x[0].std() < 1.2
    for i in range(3):
        t = torch.full((2,), i / 3)
        given, without = (renderer(x, t, renderer.read(codes, k)) for k in (None, nothing))
        clean = without + 2 * (given - without)
        x = x + (clean - x) / (1 - i / 3) / 3
    torch.testing.assert_close(tokenizer.decode(codes), x, rtol=1e-4, atol=1e-4)
    assert path(Solver("euler", "3"), "flow").times == pytest.approx((0, 1000 / 3, 2000 / 3))


@pytest.mark.parametrize("kind", ["mlp", "xattn", "xattnffn"])
def test_training_reaches_every_weight_of_the_renderer_alone(kind):
    config = rendered.tiny()
    changed = replace(config.renderer, adapter=AdapterConfig(kind, 2, 12, 24, 5, 2))
    tokenizer = made(renderer=changed)
    objective = RenderingConfig(feature_noise=0.1).objective(tokenizer, 0, 10)
    images = ((pictures(16, 4) + 1) * 127.5).to(torch.uint8)
    torch.manual_seed(0)
    losses = objective({"images": images}, 0)
    losses.totals["model"].backward()
    assert losses.logs["loss"] > 0 and losses.logs["psnr"] > -20
    still = [n for n, p in tokenizer.named_parameters() if p.grad is None or not p.grad.any()]
    assert still and all(name.startswith("vit.") for name in still)


@pytest.mark.slow
def test_the_loss_falls_and_pictures_come_back():
    tokenizer = made(size=(8, 8), evaluations=4)
    objective = RenderingConfig(cond_dropout=0.0).objective(tokenizer, 0, 10)
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    images[1] = 255
    optimizer = torch.optim.Adam([p for p in tokenizer.parameters() if p.requires_grad], 5e-3)
    for step in range(150):
        torch.manual_seed(step)
        loss = objective({"images": images}, step).totals["model"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        black, white = tokenizer.decode(tokenizer.encode(images / 127.5 - 1)).mean((1, 2, 3))
    assert black < -0.6 and white > 0.6


def test_without_a_renderer_nothing_is_seen():
    config = rendered.tiny()
    tokenizer = made(renderer=replace(config.renderer, layers=0))
    codes = tokenizer.encode(pictures(16))
    with pytest.raises(ValueError, match="these features have no renderer"):
        tokenizer.decode(codes)
    with pytest.raises(ValueError, match="these features have no renderer"):
        RenderingConfig().objective(tokenizer, 0, 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": (3, 3)}, "size must be whole, square cells of grid 3x3, got 16x16"),
        ({"size": (18, 18)}, "size must be multiples of 4 pixels, got 18x18"),
        ({"evaluations": 0}, "evaluations must be at least 1, got 0"),
        ({"form": "half"}, "form must be one of plain, unit, softmax, unit softmax, got 'half'"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        rendered.tiny(**changes)


def test_the_published_tower_sees_27_by_27_patches():
    vit = RenderedConfig().vit
    assert vit.patches == 27**2 and vit.features == 1152 and not vit.normed
