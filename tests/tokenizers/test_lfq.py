import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.tokenizers.quantize.lfq import TINY, LookupFree

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 3), st.integers(1, 4))
"""B, K, h, w."""


def latents(shape: tuple[int, ...], seed: int, scale: float) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def table(bits: int) -> torch.Tensor:
    """All codes as signs, (2^K, K)."""
    return 2.0 * (torch.arange(2**bits)[:, None] >> torch.arange(bits) & 1) - 1


def slow(quantizer: LookupFree, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both entropies with a number for each position and each code of a group."""
    rows, each, mean = z.movedim(1, -1).flatten(0, -2), torch.zeros(()), torch.zeros(())
    for part in rows.split(quantizer.group, 1):
        logits = 2 * part @ table(part.shape[1]).to(z.dtype).T / quantizer.temperature
        each = each - (logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
        share = logits.softmax(-1).mean(0)
        logs = share.clamp(min=TINY).log() if quantizer.clamped else (share + TINY).log()
        mean = mean - (share * logs).sum()
    return each, mean


@given(SHAPES, st.integers(0, 99))
def test_codes_are_signs_and_signs_are_codes(shape, seed):
    z = latents(shape, seed, 1.0)
    quantizer = LookupFree(shape[1])
    codes = quantizer.encode(z)
    assert codes.dtype == torch.int64 and codes.shape == (shape[0], *shape[2:], shape[1])
    assert torch.equal(codes.movedim(-1, 1) == 1, z > 0)
    decoded = quantizer.decode(codes)
    assert torch.equal(decoded, torch.where(z > 0, 1.0, -1.0))
    assert torch.equal(quantizer.encode(decoded), codes)
    assert torch.equal(quantizer.encode(z * 0), torch.zeros_like(codes)), "0 is not above 0"


@given(
    SHAPES,
    st.integers(0, 99),
    st.sampled_from([0.001, 0.01, 0.1, 1.0, 30.0]),
    st.integers(1, 9),
    st.sampled_from([0.0, 0.7, 1.0]),
    st.booleans(),
)
def test_the_entropy_loss_is_that_of_the_whole_table(shape, seed, scale, group, rate, clamped):
    """The value, and its gradient, beside a table of positions x codes in float64."""
    z = latents(shape, seed, scale).requires_grad_()
    quantizer = LookupFree(shape[1], group, temperature=0.1, rate=rate, clamped=clamped)
    loss = quantizer(z, entropy=True).losses["entropy"]
    exact = z.detach().double().requires_grad_()
    each, mean = slow(quantizer, exact)
    torch.testing.assert_close(loss.double(), each - rate * mean, rtol=1e-5, atol=2e-5)
    (found,) = torch.autograd.grad(loss, z)
    (expected,) = torch.autograd.grad(each - rate * mean, exact)
    size = expected.abs().max().item()
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5 + 2e-4 * size)


def test_what_is_sure_and_what_is_even():
    """One bit that is sure has no entropy; bits of which half are 1 have log 2 each."""
    sure = torch.tensor([5.0, -5.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    each, mean = LookupFree(3).entropies(sure)
    assert each.item() == 0.0
    torch.testing.assert_close(mean, torch.tensor(2.0).log(), rtol=0, atol=1e-4)
    each, mean = LookupFree(3).entropies(sure * 0)
    torch.testing.assert_close(each, 3 * torch.tensor(2.0).log())
    torch.testing.assert_close(mean, each, rtol=0, atol=1e-3)


def test_commitment_and_straight_through():
    z = latents((2, 5, 3, 4), 0, 1.0).requires_grad_()
    quantizer, weights = LookupFree(5), torch.randn(2, 5, 3, 4)
    out = quantizer(z)
    signs = torch.where(z > 0, 1.0, -1.0).detach()
    torch.testing.assert_close(out.latent, signs)
    torch.testing.assert_close(out.losses["commitment"], (z - signs).square().mean())
    assert set(out.losses) == {"commitment"}
    (grad,) = torch.autograd.grad((out.latent * weights).sum(), z, retain_graph=True)
    assert torch.equal(grad, weights)
    (grad,) = torch.autograd.grad(out.losses["commitment"], z)
    torch.testing.assert_close(grad, 2 * (z - signs).detach() / z.numel())
    assert not list(quantizer.parameters()) and not quantizer.state_dict()


def test_no_tensor_has_positions_times_codes():
    """Of 4 x 64 positions and 2^12 codes nothing that is kept for the gradient is larger than
    positions x 2^6, or than 2^12; the slow way keeps 256 times as much."""
    z = latents((4, 12, 8, 8), 0, 0.05).requires_grad_()
    kept = [0]

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[0] = max(kept[0], tensor.numel())
        return tensor

    quantizer = LookupFree(12, temperature=0.1)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        quantizer(z, entropy=True)
    assert kept[0] == max(256 * 2**6, 2**12)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        slow(quantizer, z)
    assert kept[0] == 256 * 2**12


def test_autocast_computes_in_float32():
    z = latents((2, 6, 4, 4), 0, 0.05)
    quantizer = LookupFree(6)
    plain = quantizer(z, entropy=True)
    with torch.autocast("cpu", torch.bfloat16):
        cast = quantizer(z, entropy=True)
        half = quantizer(z.bfloat16(), entropy=True)
    assert torch.equal(plain.losses["entropy"], cast.losses["entropy"])
    assert half.latent.dtype == half.losses["entropy"].dtype == torch.float32


@pytest.mark.parametrize(
    "bad",
    [
        {"bits": 0},
        {"group": 0},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"rate": -1.0},
    ],
)
def test_bad_numbers(bad):
    with pytest.raises(ValueError, match=rf"{next(iter(bad))}.*got"):
        LookupFree(**({"bits": 4} | bad))
