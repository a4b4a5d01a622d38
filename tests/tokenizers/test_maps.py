"""Tokenizers of maps: edges, depths, kinds; and codes that are drawn while they are learned."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from builders import build
from smalti.nn.edges import HIGH, LOW, SIGMA, edges
from smalti.tokenizers.maps import picture_of, planes_of
from smalti.tokenizers.vqgan import VQGAN, tiny
from smalti.train.codebook_care import CodebookConfig
from smalti.train.objectives import ReconstructionConfig
from smalti.train.relaxed import RelaxedConfig

QUIET = ReconstructionConfig(perceptual="none", gan_weight=0.0)


def shapes() -> Tensor:
    """A picture (1, 3, 24, 20) with a disc, a bar and a soft slope, in [-1, 1]."""
    y, x = np.mgrid[:24, :20]
    grey = (
        0.02 * x + (0.4 + 0.05 * x) * ((x - 8) ** 2 + (y - 9) ** 2 < 30) - 0.3 * (abs(y - 19) < 2)
    )
    pixels = np.stack([grey, 0.8 * grey, 1.1 * grey]) - 0.3
    return torch.from_numpy(pixels).float()[None].clamp(-1, 1)


def plainly(image: Tensor) -> np.ndarray:
    """Canny's edges of one picture (3, H, W), pixel by pixel."""
    red, green, blue = image.double().numpy()
    grey = (0.299 * red + 0.587 * green + 0.114 * blue) / 2
    height, width = grey.shape

    def at(values: np.ndarray, y: int, x: int) -> float:
        return values[min(max(y, 0), height - 1), min(max(x, 0), width - 1)]

    weights = [math.exp(-(d**2) / (2 * SIGMA**2)) for d in range(-2, 3)]
    smooth, across, down = np.zeros_like(grey), np.zeros_like(grey), np.zeros_like(grey)
    for y in range(height):
        for x in range(width):
            for dy, a in zip(range(-2, 3), weights, strict=True):
                for dx, b in zip(range(-2, 3), weights, strict=True):
                    smooth[y, x] += a * b / sum(weights) ** 2 * at(grey, y + dy, x + dx)
    for y in range(height):
        for x in range(width):
            for d, weight in ((-1, 1), (0, 2), (1, 1)):
                step = at(smooth, y + d, x + 1) - at(smooth, y + d, x - 1)
                across[y, x] += weight * step / 8
                step = at(smooth, y + 1, x + d) - at(smooth, y - 1, x + d)
                down[y, x] += weight * step / 8
    size = np.hypot(across, down)
    ridge = set()
    for y in range(height):
        for x in range(width):
            degrees = math.degrees(math.atan2(down[y, x], across[y, x])) % 180
            dy, dx = ((0, 1), (1, 1), (1, 0), (1, -1))[round(degrees / 45) % 4]
            inside = [(y + s * dy, x + s * dx) for s in (1, -1)]
            ahead, behind = (
                size[p] if 0 <= p[0] < height and 0 <= p[1] < width else 0.0 for p in inside
            )
            if size[y, x] > LOW and size[y, x] > ahead and size[y, x] >= behind:
                ridge.add((y, x))
    found = {p for p in ridge if size[p] > HIGH}
    waiting = list(found)
    while waiting:
        y, x = waiting.pop()
        near = {(y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & ridge - found
        found |= near
        waiting += near
    mask = np.zeros((height, width), bool)
    for p in found:
        mask[p] = True
    return mask


def test_edges_are_those_that_are_found_pixel_by_pixel():
    image = shapes()
    found = edges(torch.cat((image, image.flip(3), torch.zeros_like(image))))
    for mine, picture in zip(found[:2, 0], (image, image.flip(3)), strict=True):
        assert np.array_equal(mine.numpy(), plainly(picture[0]))
    assert 30 < int(found[0].sum()) < 120 and not found[2].any()


def test_weak_edges_stay_where_strong_ones_touch_them():
    image = shapes()
    strong, all_of_them = edges(image, HIGH, HIGH), edges(image, LOW, LOW)
    both = edges(image)
    assert (strong <= both).all() and (both <= all_of_them).all()
    assert int(strong.sum()) < int(both.sum())


def test_what_is_seen_is_shown_again():
    numbers = torch.tensor([[[0, 3], [200, 255]]])
    images = (numbers / 127.5 - 1).unsqueeze(1).expand(1, 3, 2, 2)
    planes = planes_of(images, "segmentation", 256)
    assert planes.shape == (1, 256, 2, 2) and torch.equal(planes.argmax(1), numbers)
    torch.testing.assert_close(picture_of(planes, "segmentation"), images)
    assert torch.equal(picture_of(planes_of(images, "depth"), "depth"), images)
    with pytest.raises(ValueError, match=r"in \[0, 9\), got 255"):
        planes_of(images, "segmentation", 9)


@pytest.mark.parametrize(("changes", "pixel"), [
    ({"map": "edges"}, "l2"),
    ({"map": "depth"}, "l1"),
    ({"map": "segmentation", "kinds": 256}, "kinds"),
])  # fmt: skip
def test_a_tokenizer_of_maps_learns_what_it_sees(changes, pixel):
    torch.manual_seed(0)
    model = VQGAN(replace(tiny(), **changes)).train()
    care = CodebookConfig(kmeans=False, warmup=0)
    goal = replace(QUIET, pixel=pixel, codebook=care).objective(model, 0, 4)
    batch = {"images": torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)}
    goal(batch, 0).totals["model"].backward()
    images = batch["images"] / 127.5 - 1
    out, target = model.render(model.latent(images)), model.target(images)
    assert out.shape == target.shape
    assert model.decoder.conv_out.weight.grad.abs().max() > 0
    assert model.decode(model.eval().encode(images)).shape == images.shape
    assert model(images).images.shape == images.shape
    with pytest.raises(ValueError, match="objective.pixel must be"):
        other = replace(QUIET, pixel="l2" if pixel == "kinds" else "kinds", codebook=care)
        other.objective(model, 0, 4)


def test_codes_that_are_drawn_in_training():
    model = build(VQGAN, replace(tiny(), gumbel=True))
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    codes = model.encode(images)
    assert torch.equal(codes, model.encode(images)), "evaluation takes the most probable code"
    goal = replace(
        QUIET,
        relaxed=RelaxedConfig(kl=0.5, temperature=2.0, final_temperature=1.0, temperature_steps=10),
    )
    objective = goal.objective(model.train(), 0, 4)
    losses = objective({"images": ((images + 1) * 127.5).byte()}, 5)
    assert model.quantize.temperature == pytest.approx(1.5)
    assert losses.totals["model"] > losses.logs["pixel"] + 0.4 * losses.logs["kl"]
    losses.totals["model"].backward()
    assert model.quantize.proj.weight.grad.abs().max() > 0
    drawn = {tuple(model.quantize(model.latent(images)).codes.flatten().tolist()) for _ in range(3)}
    assert len(drawn) > 1


def test_kinds_are_told_apart():
    for changes in ({"kinds": 4}, {"map": "segmentation"}, {"map": "segmentation", "kinds": 300}):
        with pytest.raises(ValueError, match="kinds must be from 2 to 256"):
            replace(tiny(), **changes)
