"""Eyes: what is taken of a tower, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from smalti.loading import load_eye, save_towers
from smalti.models import towers as seeing
from smalti.models.eye import TowerEye, TowerEyeConfig, tiny
from smalti.models.towers import Matcher, Towers
from smalti.modules import save_module
from smalti.nn.finite import NotFinite
from smalti.text.words import Words


@pytest.fixture(scope="module")
def words() -> Words:
    return Words.train(["a small red circle"], 300)


def towers(kind: str, words: Words) -> Matcher:
    torch.manual_seed(0)
    config = replace(seeing.tiny(), kind=kind, size=16, mean=(0.4, 0.5, 0.6)).fitted(words)
    return Matcher(Towers(config).eval(), words)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_an_eye_of_towers_sees_what_they_see(kind, words, tmp_path):
    matcher = towers(kind, words)
    save_towers(matcher, tmp_path / "towers")
    eye = load_eye(tmp_path / "towers")
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    hidden = matcher.towers.vision(matcher.towers.normalised(images))[:, kind == "clip" :]
    torch.testing.assert_close(eye.encode(images), hidden)
    assert eye.size == (16, 16) and eye.sight.spec.shape(2) == hidden.shape
    assert not any("head" in name for name in eye.state_dict())
    save_module(eye, tmp_path / "eye")
    torch.testing.assert_close(load_eye(tmp_path / "eye").encode(images), hidden)


@torch.no_grad()
def test_how_it_is_taken_of_towers(words, tmp_path):
    """Before the last norm, on a smaller grid, as vectors of length 1."""
    matcher = towers("siglip", words)
    save_towers(matcher, tmp_path / "towers")

    def take(config: seeing.TowersConfig) -> TowerEyeConfig:
        return TowerEyeConfig.of(config, normed=False, grid=2, unit=True)

    eye = load_eye(tmp_path / "towers", take)
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    seen = eye.encode(images)
    assert seen.shape == (1, 4, 16) and eye.sight.unit
    torch.testing.assert_close(seen.norm(dim=-1), torch.ones(1, 4))
    hidden, tower = list[torch.Tensor](), matcher.towers.vision
    hook = tower.norm.register_forward_pre_hook(lambda _, given: hidden.append(given[0]))
    tower(matcher.towers.normalised(images))
    hook.remove()
    cells = hidden[0].unflatten(1, (4, 4))  # halving a side bilinearly is the mean of 2 x 2
    means = cells.unflatten(2, (2, 2)).unflatten(1, (2, 2)).mean((2, 4)).flatten(1, 2)
    torch.testing.assert_close(seen, F.normalize(means, dim=-1))


def test_bad_pictures_and_sizes_are_refused(words, tmp_path):
    eye = TowerEye(tiny()).eval()
    with pytest.raises(ValueError, match=r"images must be \(B, 3, 8, 8\), got \(1, 3, 8, 12\)"):
        eye.encode(torch.zeros(1, 3, 8, 12))
    with pytest.raises(ValueError, match="pixels must be numbers"):
        eye.encode(torch.full((1, 3, 8, 8), torch.nan))
    with torch.no_grad():
        next(iter(eye.parameters())).fill_(torch.nan)
    with pytest.raises(NotFinite, match="vectors of the eye"):
        eye.encode(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="grid must be 0 or more, got -1"):
        replace(tiny(), grid=-1)
    with pytest.raises(ValueError, match="size must be at least patch 9, got 8"):
        replace(tiny(), patch=9)
    with pytest.raises(ValueError, match="holds no towers"):
        (tmp_path / "x").mkdir()
        load_eye(tmp_path / "x")
