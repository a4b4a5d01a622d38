import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.sampling.filters import Filters, draw

LAST = 1 - 2**-24  # the largest uniform number that `Noise` gives


def test_frequencies_over_a_fine_grid_are_the_probabilities():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, generator=generator) * 2
    probs, count = logits.double().softmax(-1), 1 << 16
    uniform = (torch.arange(count) + 0.5) / count
    codes, _ = draw(logits.expand(count, -1), uniform)
    found = codes.bincount(minlength=50)
    # the grid cuts each interval of probability at both ends
    assert ((found - probs * count).abs() <= 1.5).all()


def test_inverts_the_cumulative_distribution():
    logits = torch.tensor([0.25, 0.5, 0.125, 0.125]).log()
    uniform = torch.tensor([0.0, 0.24, 0.26, 0.74, 0.76, 0.87, 0.88, LAST])
    codes, _ = draw(logits.expand(8, -1), uniform)
    assert codes.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@given(
    st.lists(st.none() | st.integers(-2000, 2000), min_size=2, max_size=40).filter(
        lambda row: any(x is not None for x in row)
    ),
    st.sampled_from([0.0, 2**-24, 0.5, 1 - 2**-23, LAST]) | st.floats(0, LAST, width=32),
)
def test_a_dropped_code_is_never_drawn(row, uniform):
    logits = torch.tensor([-math.inf if x is None else x / 50 for x in row])
    code, logp = draw(logits, torch.tensor(uniform))
    assert logits[code] > -math.inf
    torch.testing.assert_close(logp, logits.log_softmax(-1)[code])
    assert logp.isfinite() and logp <= 0


@pytest.mark.parametrize("uniform", [0.0, LAST])
def test_the_ends_over_many_vocabularies(uniform):
    """Where the codes at both ends are dropped, the first and last kept ones are drawn."""
    generator = torch.Generator().manual_seed(1)
    for size in (3, 100, 16384):
        logits = torch.randn(200 if size < 1000 else 8, size, generator=generator) * 3
        logits[:, 0] = logits[:, -1] = -math.inf
        codes, logp = draw(logits, torch.full((len(logits),), uniform))
        assert logp.isfinite().all() and (codes > 0).all() and (codes < size - 1).all()
        if uniform == 0:
            assert (codes == 1).all()


def test_one_code_left_is_drawn_whatever_the_noise():
    logits = torch.tensor([0.0, 5.0, 1.0])
    filtered = Filters(top_k=1)(logits).expand(3, -1)
    codes, logp = draw(filtered, torch.tensor([0.0, 0.5, LAST]))
    assert codes.tolist() == [1, 1, 1] and logp.tolist() == [0, 0, 0]


def test_shapes_and_log_probabilities():
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    codes, logp = draw(logits, torch.full((2, 3), 0.3))
    assert codes.shape == logp.shape == (2, 3) and codes.dtype == torch.int64
    for b in range(2):
        for i in range(3):
            expected = logits[b, i, codes[b, i]] - logits[b, i].logsumexp(0)
            torch.testing.assert_close(logp[b, i], expected)
