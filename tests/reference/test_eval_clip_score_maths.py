"""Scores of embeddings against torchmetrics' and the papers' formulas in float64."""

import pytest
import torch
from golden import folders, load

from smalti.eval.clip import clip_score, clipscore, cmmd, cosine


@pytest.mark.parametrize("folder", folders("eval_clip_score_maths"))
def test_clip_scores(folder):
    _, _, io = load(folder)
    pair = io["image_emb"], io["text_emb"]
    found = cosine(*pair)
    torch.testing.assert_close(found, io["cosine"], rtol=1e-9, atol=1e-12)
    each = 100 * found.clamp(min=0).mean().item()
    assert each == pytest.approx(io["clip_score_persample"].item(), rel=1e-9)
    assert clip_score(*pair) == pytest.approx(io["clip_score_tm"].item(), rel=1e-9)
    assert clipscore(*pair) == pytest.approx(io["clipscore_hessel"].item(), rel=1e-9)
    assert cmmd(io["cmmd_a"], io["cmmd_b"]) == pytest.approx(io["cmmd"].item(), rel=1e-6)
    io.done()
