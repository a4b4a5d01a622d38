"""Sub-codes of several tables, and the attention around them."""

import pytest
import torch
from torch.nn import functional as F

from smalti.nn.projection import AttentionProjection
from smalti.tokenizers.quantize.multicode import MulticodeQuantizer
from smalti.tokenizers.quantize.vq import VectorQuantizer


@pytest.fixture
def quantizer():
    torch.manual_seed(0)
    return MulticodeQuantizer(vocab=8, dim=12, depth=3)


def test_each_part_is_quantized_as_by_a_table_alone(quantizer):
    z = torch.randn(2, 12, 3, 5)
    out, losses, latents = quantizer(z, entropy=True), [], []
    for k, part in enumerate(z.chunk(3, 1)):
        alone = VectorQuantizer(8, 4)
        alone.embedding.weight.data = quantizer.embedding.weight.data[8 * k : 8 * k + 8].clone()
        one = alone(part, entropy=True)
        assert torch.equal(out.codes[..., k], one.codes)
        losses.append(one.losses)
        latents.append(one.latent)
    torch.testing.assert_close(out.latent, torch.cat(latents, 1))
    for name, loss in out.losses.items():
        torch.testing.assert_close(loss, torch.stack([part[name] for part in losses]).mean())


def test_codes_of_codes_are_the_same(quantizer):
    codes = torch.randint(0, 8, (2, 3, 5, 3))
    assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)


def test_losses_move_their_own_side_alone(quantizer):
    z = torch.randn(2, 12, 2, 2, requires_grad=True)
    losses = quantizer(z).losses
    table = quantizer.embedding.weight
    for name, moved, still in (("codebook", table, z), ("commitment", z, table)):
        found = torch.autograd.grad(losses[name], [moved, still], allow_unused=True)
        assert found[0].abs().max() > 0 and found[1] is None


@pytest.mark.parametrize(("vocab", "dim", "depth"), [(1, 4, 2), (8, 5, 2), (8, 4, 0), (8, 0, 1)])
def test_numbers_that_make_no_quantizer_are_refused(vocab, dim, depth):
    with pytest.raises(ValueError, match=f"got {vocab}, {depth}, {dim}$"):
        MulticodeQuantizer(vocab, dim, depth)


@pytest.mark.parametrize(("before", "after", "heads"), [(24, 4, 6), (24, 4, 3), (4, 24, 6)])
def test_causal_tokens_see_those_before_them(before, after, heads):
    torch.manual_seed(0)
    x = torch.randn(2, 7, before)
    other = torch.cat((x[:, :4], torch.randn(2, 3, before)), 1)
    for causal in (True, False):
        module = AttentionProjection(before, after, heads, causal)
        same = (module(x) - module(other))[:, :4].abs().max()
        assert (same < 1e-5) == causal


def test_averaged_heads_wider_than_the_output_are_pooled():
    torch.manual_seed(0)
    module = AttentionProjection(24, 4, 3).attn
    x = torch.randn(1, 5, 24)
    q, k, v = F.linear(x, module.qkv.weight).unflatten(-1, (3, 3, 8)).permute(2, 0, 3, 1, 4)
    y = ((q @ k.mT / 8**0.5).softmax(-1) @ v).mean(1)  # (1, 5, 8)
    torch.testing.assert_close(module(x), module.proj(y.unflatten(-1, (4, 2)).mean(-1)))


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="heads must divide 24, got 5"):
        AttentionProjection(24, 4, 5)
