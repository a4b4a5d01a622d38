"""Scores of embeddings against torchmetrics' and the papers' formulas in float64."""

import pytest
from golden import folders, load

from smalti.eval.clip import clip_score, clipscore, cmmd, cosine


@pytest.mark.parametrize("folder", folders("eval_clip_score_maths"))
def test_clip_scores(folder):
    _, _, io = load(folder)
    if "image_emb" in io:
        pair = io["image_emb"], io["text_emb"]
        io.check("cosine", cosine(*pair), size=1)
        each = 100 * cosine(*pair).clamp(min=0).mean().item()
        io.numbers("clip_score_persample", each, size=100)
        io.numbers("clip_score_tm", clip_score(*pair), size=100)
        io.numbers("clipscore_hessel", clipscore(*pair), size=2.5)
    if "cmmd_a" in io:  # a difference of means of a kernel of at most 1, times 1000
        io.numbers("cmmd", cmmd(io["cmmd_a"], io["cmmd_b"]), 1e-9, 1000)
    io.done()
