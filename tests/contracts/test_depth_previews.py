"""Pictures of the first codes of each position: streams and decoding, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import DepthConfig, DepthModel

from builders import build, pipeline
from smalti import modules
from smalti.pipeline.pipeline import Pipeline
from smalti.tokenizers.rq_vae import RQVAE, tiny

DEPTH = 3


@pytest.fixture(scope="module")
def pipe():
    config = DepthConfig(
        grid=(4, 4), vocab=32, depth=DEPTH, classes=3, layers=1, heads=2, dim=16, multiple_of=16
    )
    entry = modules.Entry(DepthConfig, DepthModel, lambda: config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(modules.MODELS, "toy_depth", entry)
        yield Pipeline(build(RQVAE, tiny()), build(DepthModel, config))


def shown(parts) -> list[np.ndarray]:
    return [np.asarray(part.images[0]).astype(int) for part in parts]


def test_a_stream_shows_the_first_codes_of_each_position(pipe):
    everything = shown(pipe.stream(n=1, seed=3, every=8))
    by_depth = [shown(pipe.stream(n=1, seed=3, every=8, depth=d)) for d in (1, 2, 3)]
    for parts in by_depth:
        assert len(parts) == len(everything) == 2
        assert np.array_equal(parts[-1], everything[-1]), "in the end all codes"
        assert (parts[0][8:] == 128).all() and (parts[0][:8] != 128).any()
    assert np.array_equal(by_depth[-1][0], everything[0])
    first, second, _ = (parts[0] for parts in by_depth)
    assert not np.array_equal(first, second) and not np.array_equal(second, everything[0])


def test_codes_are_decoded_by_depth(pipe):
    codes = pipe.codes([0, 1], seed=1)
    assert codes.shape == (2, 16, DEPTH)
    pictures = [pipe.decode(codes, depth=d) for d in (1, 2, 3)]
    assert torch.equal(pictures[-1], pipe.decode(codes))
    other = codes.clone()
    other[..., 1:] = 0
    assert torch.equal(pipe.decode(other, depth=1), pictures[0])
    assert not torch.equal(pictures[0], pictures[1])


def test_a_depth_that_there_is_not_is_refused(pipe):
    codes = pipe.codes([0])
    for wrong in (0, DEPTH + 1):
        words = f"^depth must be from 1 to {DEPTH}, got {wrong}$"
        with pytest.raises(ValueError, match=words):
            next(pipe.stream(n=1, depth=wrong))
        with pytest.raises(ValueError, match=words):
            pipe.decode(codes, depth=wrong)


def test_scales_are_levels_as_well_and_one_grid_is_one():
    scaled = pipeline("var")
    most = len(scaled.model.spec.grids)
    whole, coarse = shown(scaled.stream(n=1)), shown(scaled.stream(n=1, depth=1))
    assert len(whole) == len(coarse) == most
    assert np.array_equal(coarse[0], whole[0]) and np.array_equal(coarse[1], whole[0])
    assert np.array_equal(coarse[-1], whole[-1])
    plain = pipeline("llamagen")
    assert len(list(plain.stream(n=1, depth=1)))
    with pytest.raises(ValueError, match="depth must be from 1 to 1, got 2"):
        next(plain.stream(n=1, depth=2))


def test_another_tokenizer_of_stacks_is_refused_by_its_codes(pipe):
    with pytest.raises(ValueError, match="codes"):
        Pipeline(build(RQVAE, replace(tiny(), depth=2)), pipe.model)
