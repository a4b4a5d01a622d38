import pytest
import torch
from torch.nn import functional as F

from smalti.nn.conv import Downsample, ResnetBlock, SpatialAttention, Upsample, group_norm


def picture(channels: int, height: int = 6, width: int = 4) -> torch.Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0))


def pick(conv: torch.nn.Conv2d, row: int, column: int) -> None:
    """Make a 3x3 convolution copy one of the nine pixels that it sees."""
    with torch.no_grad():
        conv.weight.zero_()
        conv.bias.zero_()
        for channel in range(conv.in_channels):
            conv.weight[channel, channel, row, column] = 1


@pytest.mark.parametrize(
    ("channels", "groups"), [(128, 32), (64, 32), (32, 32), (48, 16), (40, 8), (8, 8)]
)
def test_group_norm_has_32_groups_where_they_fit(channels, groups):
    norm = group_norm(channels)
    assert norm.num_groups == groups and norm.eps == 1e-6


@torch.no_grad()
@pytest.mark.parametrize(("row", "column"), [(r, c) for r in range(3) for c in range(3)])
def test_downsample_pads_at_the_right_and_bottom_only(row, column):
    x, layer = picture(3), Downsample(3)
    pick(layer.conv, row, column)
    padded = torch.zeros(2, 3, 7, 5)
    padded[:, :, :6, :4] = x
    expected = torch.stack(
        [padded[:, :, row + 2 * i, column : column + 3 : 2] for i in range(3)], 2
    )
    assert torch.equal(layer(x), expected)
    assert layer(x).shape == (2, 3, 3, 2)


@torch.no_grad()
def test_upsample_repeats_pixels_before_its_convolution():
    x, layer = picture(3), Upsample(3)
    pick(layer.conv, 1, 1)
    assert torch.equal(layer(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    pick(layer.conv, 0, 1)
    shifted = layer(x)
    assert not shifted[:, :, 0].any() and torch.equal(shifted[:, :, 2], shifted[:, :, 1])


@torch.no_grad()
@pytest.mark.parametrize(("before", "after"), [(32, 32), (32, 64)])
def test_resnet_block(before, after):
    x, block = picture(before), ResnetBlock(before, after, dropout=0.5).eval()
    h = block.conv1(F.silu(F.group_norm(x, 32, eps=1e-6)))
    h = block.conv2(F.silu(F.group_norm(h, 32, eps=1e-6)))
    shortcut = block.nin_shortcut(x) if after != before else x
    torch.testing.assert_close(block(x), shortcut + h)
    assert block(x).shape == (2, after, 6, 4)
    assert any(k.startswith("nin_shortcut") for k in block.state_dict()) == (before != after)
    block.train()
    assert not torch.equal(block(x), block(x)), "dropout is on while training"


@torch.no_grad()
def test_spatial_attention_is_one_softmax_over_all_pixels():
    x, layer = picture(64), SpatialAttention(64)
    h = F.group_norm(x, 32, eps=1e-6)
    q, k, v = (f(h).flatten(2).double() for f in (layer.q, layer.k, layer.v))  # (B, C, HW)
    weights = (q.transpose(1, 2) @ k / 64**0.5).softmax(-1)  # (B, queries, keys)
    y = (weights @ v.transpose(1, 2)).transpose(1, 2).float().view_as(x)
    torch.testing.assert_close(layer(x), x + layer.proj_out(y), rtol=0, atol=1e-5)
    assert (layer(x) - x).abs().max() > 1e-2
