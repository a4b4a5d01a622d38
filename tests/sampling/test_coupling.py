"""Drafts: drawn as likely as their probabilities say, and mostly kept where these change little."""

import torch

from smalti.sampling.coupling import Drafts, accepted, residual
from smalti.sampling.noise import Noise, SlotNoise

COUNT = 40_000


def drawn(drafts: Drafts, noise: Noise, p: list[float], slot: int = 5) -> torch.Tensor:
    """Codes (COUNT,) of one slot by these probabilities."""
    logits = torch.tensor(p).log().expand(COUNT, 1, -1)
    codes, logp = SlotNoise(noise, torch.tensor([slot]), by=drafts).draw(logits)
    torch.testing.assert_close(logp.exp(), torch.tensor(p)[codes])
    return codes[:, 0]


def test_each_draw_is_by_the_probabilities_of_today():
    """Three draws of a slot, each within 4 standard deviations of each share; what was drawn first
    does not show in the share of what is drawn next."""
    drafts, noise = Drafts(COUNT, 4), Noise.request(1, COUNT)
    for p in ([0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.25, 0.5, 0.25]):
        found = drawn(drafts, noise, p).bincount(minlength=3) / COUNT
        sd = (torch.tensor(p) * (1 - torch.tensor(p)) / COUNT).sqrt()
        assert ((found - torch.tensor(p)).abs() < 4 * sd).all()


def test_a_draft_is_kept_as_often_as_two_distributions_overlap():
    drafts, noise = Drafts(COUNT, 4), Noise.request(1, COUNT)
    before = drawn(drafts, noise, [0.5, 0.3, 0.2])
    after = drawn(drafts, noise, [0.2, 0.5, 0.3])
    assert abs(float((before == after).float().mean()) - 0.7) < 0.01
    assert torch.equal(drawn(drafts, noise, [0.2, 0.5, 0.3]), after)
    other = drawn(drafts, noise, [0.2, 0.5, 0.3], slot=9)  # in the place of the first slot
    assert abs(float((other == after).float().mean()) - 0.38) < 0.01


def test_what_is_drawn_instead():
    p, q = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.5, 0.3, 0.2])
    torch.testing.assert_close(residual(p, q), torch.tensor([0.0, 2 / 3, 1 / 3]))
    assert torch.equal(residual(p, p), torch.zeros(3))
    uniform = torch.tensor([0.39, 0.41])
    assert accepted(p.expand(2, 3), q.expand(2, 3), torch.tensor([0, 0]), uniform).tolist() == [
        True,
        False,
    ]
