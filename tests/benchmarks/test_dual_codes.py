"""The benchmark of two levels of codes: what is left out where pixels are alone, and captioners."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from builders import build
from smalti.data.drawn_shapes import Shapes
from smalti.tokenizers import dual

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from dual_codes import Captioner, Captions, PixelsAlone, features_of, taught


@torch.no_grad()
def test_pixels_alone_are_the_same_network_without_semantic_codes():
    both, alone = (build(kind, dual.tiny()) for kind in (dual.DualTokenizer, PixelsAlone))
    codes = torch.randint(16, (2, 68))
    codes[:, 4:] += 16
    other = codes.clone()
    other[:, :4] = (other[:, :4] + 1) % 16
    assert torch.equal(alone.decode(codes), alone.decode(other))
    assert not torch.equal(both.decode(codes), both.decode(other))
    assert {n: p.shape for n, p in both.named_parameters()} == {
        n: p.shape for n, p in alone.named_parameters()
    }


def test_features_of_codes_are_those_that_the_decoder_of_features_gives():
    model, pictures = build(dual.DualTokenizer, dual.tiny()), Shapes(3, seed=1)
    seen, coded = (features_of(model, pictures, codes) for codes in (False, True))
    assert seen.shape == coded.shape == (3, 4, 12) and not torch.equal(seen, coded)
    torch.testing.assert_close(seen.mean(-1), torch.zeros(3, 4), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_captioners_learn_what_features_say():
    pictures = Shapes(40, seed=3)
    captions = Captions(pictures)
    ids = captions.ids(pictures)
    assert [captions.words[i - 2] for i in ids[0].tolist() if i > 1] == pictures.caption(0).split()
    told = torch.nn.functional.one_hot(ids, 64).float()  # features that say the caption
    reader = taught(told, ids, 120, 0)
    right = (reader.write(told, captions.length) == ids).all(1).float().mean()
    assert right > 0.9
    assert (Captioner(64).eval().write(told, captions.length) == ids).all(1).float().mean() < 0.5
