import pytest
import torch
from torch.nn import functional as F

from smalti.nn import conv
from smalti.nn.conv import (
    Downsample,
    ResnetBlock,
    SpatialAttention,
    Upsample,
    convolved,
    group_norm,
)


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


def plain_upsample(layer: Upsample, x: torch.Tensor) -> torch.Tensor:
    return layer.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 3), (6, 4)])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_four_kernels_do_what_one_does_on_repeated_pixels(size, dtype, error):
    torch.manual_seed(0)
    layer, x = Upsample(6, 9).to(dtype).eval(), picture(6, *size).to(dtype)
    found, expected = layer(x), plain_upsample(layer.double(), x.double())
    assert found.dtype == dtype and found.shape == (2, 9, 2 * size[0], 2 * size[1])
    torch.testing.assert_close(found.double(), expected, atol=error, rtol=error)


def test_kernels_are_summed_again_when_weights_change():
    layer, x = Upsample(4).eval(), picture(4)
    with torch.no_grad():
        first = layer(x)
        kept = layer._kept
        assert torch.equal(layer(x), first) and layer._kept is kept
        layer.conv.weight.mul_(2)
        torch.testing.assert_close(layer(x), plain_upsample(layer, x))
        layer.conv.weight.data = layer.conv.weight.data * 3
        torch.testing.assert_close(layer(x), plain_upsample(layer, x))
        layer.train()
        assert layer._kept is None
    with torch.inference_mode():
        layer.conv.weight = torch.nn.Parameter(torch.randn(4, 4, 3, 3), requires_grad=False)
        for _ in range(2):
            layer.conv.weight.mul_(2)
            torch.testing.assert_close(layer(x), plain_upsample(layer, x))


def test_upsampling_learns_by_the_plain_way():
    layer, x = Upsample(4), picture(4)
    found, expected = layer(x), plain_upsample(layer, x)
    assert torch.equal(found, expected) and found.grad_fn is not None
    assert list(layer.state_dict()) == ["conv.weight", "conv.bias"]


@torch.no_grad()
@pytest.mark.parametrize("strip", [1, 120, 1000])
@pytest.mark.parametrize("kernel", [1, 3])
def test_strips_give_what_the_whole_map_gives(monkeypatch, strip, kernel):
    torch.manual_seed(0)
    monkeypatch.setattr(conv, "LARGE", 1)
    monkeypatch.setattr(conv, "STRIP", strip)
    norm, layer = group_norm(12), torch.nn.Conv2d(12, 5, kernel, padding=kernel // 2)
    norm.weight.normal_(), norm.bias.normal_()
    x = picture(12, 7, 5) * 3 + 1
    x[:, 3] += 40  # a mean far above the deviation
    found = convolved(x, norm, layer)
    torch.testing.assert_close(found, layer(F.silu(norm(x))), atol=2e-5, rtol=2e-5)


def test_strips_are_for_what_is_not_learned(monkeypatch):
    monkeypatch.setattr(conv, "LARGE", 1)
    norm, layer, x = group_norm(8), torch.nn.Conv2d(8, 8, 3, padding=1), picture(8)
    plain = layer(F.silu(norm(x)))
    assert torch.equal(convolved(x, norm, layer), plain)
    with torch.no_grad():
        monkeypatch.setattr(conv, "STRIP", 40)
        monkeypatch.setattr(F, "group_norm", None)  # the whole map is not normalised
        torch.testing.assert_close(convolved(x, norm, layer), plain)
