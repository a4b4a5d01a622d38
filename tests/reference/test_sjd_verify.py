"""Which drafts are kept, and what stands in place of the first that is not, against speculative
Jacobi decoding as published."""

from pathlib import Path

import pytest
import torch
from golden import folders, load

from smalti.sampling.coupling import accepted, residual


@pytest.mark.parametrize("folder", folders("sjd_verify"))
def test_sjd_verify(folder: Path):
    _, _, io = load(folder)
    drafts, fresh = io["draft_tokens"], io["advanced_tokens"]  # (B, L)
    p, q = io["advanced_probs"][:, :-1], io["draft_probs"][:, 1:]  # (B, L - 1, V)
    kept = accepted(p, q, drafts[:, 1:], io["uniforms"][:, 1:])  # (B, L - 1)
    count = kept.long().cumprod(1).sum(1)  # (B,) drafts that are kept
    io.check("first_rejected", count + 1)
    rest = residual(p, q)
    at, rows = count.clamp(max=kept.shape[1] - 1), torch.arange(len(drafts))
    some = (count < kept.shape[1]).unsqueeze(1)
    rest = torch.where(some, rest[rows, at], torch.zeros_like(rest[:, 0]))  # (B, V)
    io.check("residual", rest)
    columns = torch.arange(drafts.shape[1])
    result = torch.where(columns < count[:, None], drafts.roll(-1, 1), fresh)
    redrawn = (columns == count[:, None]) & some
    io.check("result_tokens", torch.where(redrawn, rest.argmax(1, keepdim=True), result))
    io.done()
