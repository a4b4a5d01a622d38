"""Index back-propagation beside the slow way: a one-hot code for each position, over the table."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from smalti.tokenizers.quantize import ibq
from smalti.tokenizers.quantize.ibq import TINY, IndexPropagation
from smalti.train.codebook_care import CodebookCare, CodebookConfig


def setup(
    vocab: int = 20, dim: int = 4, scale: float = 1.0
) -> tuple[IndexPropagation, torch.Tensor]:
    torch.manual_seed(0)
    return IndexPropagation(vocab, dim, temperature=0.1), scale * torch.randn(2, dim, 3, 5)


def slow(z: torch.Tensor, book: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What is rendered (B, C, h, w), the losses as upstream adds them, and the entropies' loss."""
    logits = torch.einsum("bchw,vc->bhwv", z, book)
    soft = logits.softmax(-1)
    hard = F.one_hot(logits.argmax(-1), len(book)).to(soft.dtype)
    chosen = torch.einsum("bhwv,vc->bchw", hard - soft.detach() + soft, book)
    plain = torch.einsum("bhwv,vc->bchw", hard, book)
    terms = (chosen - z).square().mean() + (plain.detach() - z).square().mean()
    terms = terms + 0.25 * (plain - z.detach()).square().mean()
    logits = logits.flatten(0, 2) / 0.1
    share = logits.softmax(-1).mean(0)
    each = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
    return chosen, terms, each + (share * (share + TINY).log()).sum()


@given(st.integers(2, 40), st.integers(1, 9), st.sampled_from([0.1, 1.0, 5.0]))
def test_values_and_gradients_are_those_of_one_hot_codes(vocab, dim, scale):
    quantizer, z = setup(vocab, dim, scale)
    z, weights = z.requires_grad_(), torch.randn(z.shape)
    out = quantizer(z, entropy=True)
    losses = out.losses
    terms = losses["joint"] + losses["commitment"] + 0.25 * losses["codebook"]
    total = (out.latent * weights).sum() + terms + losses["entropy"]
    exact = z.detach().double().requires_grad_()
    book = quantizer.embedding.weight.detach().double().requires_grad_()
    chosen, wanted, entropy = slow(exact, book)
    torch.testing.assert_close(out.latent.double(), chosen, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(terms.double(), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses["entropy"].double(), entropy, rtol=1e-4, atol=1e-5)
    found = torch.autograd.grad(total, [z, quantizer.embedding.weight])
    slowly = torch.autograd.grad((chosen * weights).sum() + wanted + entropy, [exact, book])
    for ours, theirs in zip(found, slowly, strict=True):
        size = theirs.abs().max().item()
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=2e-5 * size)


def test_codes_have_the_largest_product_and_rows_are_their_vectors():
    quantizer, z = setup()
    book = quantizer.embedding.weight.detach()
    codes = quantizer.encode(z)
    assert codes.shape == (2, 3, 5)
    assert torch.equal(codes, torch.einsum("bchw,vc->bhwv", z, book).argmax(-1))
    assert torch.equal(codes, quantizer(z).codes)
    torch.testing.assert_close(quantizer.decode(codes), book[codes].movedim(-1, 1))
    with torch.no_grad():
        quantizer.embedding.weight.copy_(book[:1].expand(20, -1).clone())
    assert not quantizer.encode(z).any(), "the first of equal codes"


def test_every_code_learns_from_every_latent():
    quantizer, z = setup()
    z = z[:1, :, :1, :1].requires_grad_()
    out = quantizer(z)
    (grad,) = torch.autograd.grad((out.latent * torch.randn(out.latent.shape)).sum(),
                                  quantizer.embedding.weight)  # fmt: skip
    assert (grad.abs().amax(1) > 0).all()


def test_blocks_change_nothing(monkeypatch):
    quantizer, z = setup()
    wanted, whole = quantizer(z.requires_grad_(), entropy=True), quantizer.encode(z)
    gradients = torch.autograd.grad(wanted.losses["entropy"], [z, quantizer.embedding.weight])
    monkeypatch.setattr(ibq, "ENTRIES", 7 * quantizer.vocab)
    assert len(quantizer.blocks(quantizer.rows(z))) == 5
    found = quantizer(z, entropy=True)
    assert torch.equal(found.codes, wanted.codes) and torch.equal(quantizer.encode(z), whole)
    torch.testing.assert_close(found.losses["entropy"], wanted.losses["entropy"])
    again = torch.autograd.grad(found.losses["entropy"], [z, quantizer.embedding.weight])
    for ours, theirs in zip(again, gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("batch", [1, 4])
def test_nothing_that_is_kept_has_a_number_for_each_latent_and_code(monkeypatch, batch, entropy):
    """Of 256 latents and 1024 codes of 4 dimensions the table is the largest that is kept for the
    gradient; the slow way keeps 64 times as much."""
    torch.manual_seed(0)
    quantizer, z = IndexPropagation(1024, 4), torch.randn(batch, 4, 256 // batch, 1)
    z.requires_grad_()
    monkeypatch.setattr(ibq, "ENTRIES", 2**14)
    kept = [0]

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[0] = max(kept[0], tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        quantizer(z, entropy=entropy)
    assert kept[0] == 1024 * 4
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        slow(z, quantizer.embedding.weight)
    assert kept[0] == 256 * 1024


def test_autocast_computes_in_float32():
    quantizer, z = setup()
    plain = quantizer(z, entropy=True)
    with torch.autocast("cpu", torch.bfloat16):
        cast = quantizer(z, entropy=True)
        assert torch.equal(quantizer.encode(z), plain.codes)
    for name, loss in plain.losses.items():
        assert torch.equal(loss, cast.losses[name])
    assert torch.equal(plain.latent, cast.latent)


def test_care_starts_and_restarts_codes_as_directions_that_win():
    """Latents of four directions and any length: k-means makes codes of length one, each of which
    has the largest product in its direction; a code that was not used for long is moved to one."""
    torch.manual_seed(0)
    axes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    z = (axes.repeat(8, 1) * (1 + 9 * torch.rand(32, 1)))[:, :, None, None]
    quantizer = IndexPropagation(4, 2)
    care = CodebookCare(quantizer, CodebookConfig(samples=8, patience=2))
    care.collect(quantizer.unquantized(z))
    care.start(quantizer, 0)
    torch.testing.assert_close(quantizer.embedding.weight.norm(dim=1), torch.ones(4))
    assert len(quantizer.encode(z)[:4].unique()) == 4
    with torch.no_grad():
        quantizer.embedding.weight[2] = quantizer.embedding.weight[3] / 2  # never the largest
    for _ in range(4):
        codes = quantizer.encode(z)
        assert 2 not in codes
        care.observe(codes)
    care.restart(quantizer, z, 10)
    codes = quantizer.encode(z)
    assert len(codes[:4].unique()) == 4 and 2 in codes


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ((1, 4), "vocab must be at least 2 .* got 1, 4"),
        ((4, 4, 0.0), "temperature must be a positive number, got 0.0"),
        ((4, 4, float("nan")), "temperature must be a positive number, got nan"),
    ],
)
def test_bad_numbers(bad, message):
    with pytest.raises(ValueError, match=message):
        IndexPropagation(*bad)
