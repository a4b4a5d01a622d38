"""Attention, the only one, and its preallocated cache of keys and values."""

from __future__ import annotations

import copy
from math import prod
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.devices.machine import require_memory
from smalti.devices.named import cache_dtype, fast_bf16_attention

FUSED = 1 << 21
"""So many scores train faster on a CPU by the fused kernel: they no longer stay in caches."""


class KVCache:
    """Keys and values of every layer, each (B, H, length, head_dim), allocated once.

    `length` counts sequence positions, the conditioning prefix included. On a CPU those of half
    precision are kept in float32 where attention of one query converts all it reads
    (`cache_dtype`).
    Raises ValueError for more of them than the machine has memory.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        heads: int,
        length: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        shape, dtype = (batch, heads, length, head_dim), cache_dtype(dtype, torch.device(device))
        size = 2 * layers * prod(shape) * dtype.itemsize
        require_memory(size, f"keys and values of {batch} rows of {length:,} positions", device)
        # zeros, not empty: a masked position is multiplied by 0, which does not undo a NaN
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]

    def update(
        self, layer: int, positions: Tensor, reach: int, k: Tensor, v: Tensor, keep: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Write k, v (B, H, n, head_dim) at positions (n,) or (B, n); return all below `reach`.

        Without `keep` the same is returned and the cache stays as it was.
        """
        keys, values = self.keys[layer], self.values[layer]
        k, v = k.to(keys.dtype), v.to(values.dtype)
        if not keep:
            keys, values = keys[:, :, :reach].clone(), values[:, :, :reach].clone()
        if positions.dim() == 1:
            keys.index_copy_(2, positions, k)
            values.index_copy_(2, positions, v)
        else:
            index = positions[:, None, :, None].expand(k.shape)
            keys.scatter_(2, index, k)
            values.scatter_(2, index, v)
        return keys[:, :, :reach], values[:, :, :reach]

    def rows(self, index: Tensor) -> Self:
        """A cache of some rows, (n,) int64; it shares no memory with this one."""
        other = copy.copy(self)
        other.keys = [t.index_select(0, index) for t in self.keys]
        other.values = [t.index_select(0, index) for t in self.values]
        return other

    def put(self, index: Tensor, other: KVCache) -> None:
        """Write all that `other` holds in place of the rows of `index`."""
        for mine, given in zip(
            (*self.keys, *self.values), (*other.keys, *other.values), strict=True
        ):
            mine.index_copy_(0, index, given)

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention, (B, H, n, head_dim) for q of that shape.

    Args: k, v (B, H_kv, m, head_dim) where H_kv divides H (grouped queries share keys), of the
    dtype of q or, from a cache, in float32, in which it is then computed;
    mask bool, broadcast to (B, H, n, m), True where a query sees a key; causal without a mask;
    scale of the products, by default head_dim ** -0.5; dropout of the probabilities.
    """
    if q.dtype != k.dtype:
        return attend(q.to(k.dtype), k, v, mask, causal, scale, dropout).to(q.dtype)
    if q.shape[1] != k.shape[1]:
        k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    if q.device.type == "cpu":
        if torch.is_grad_enabled() and q.requires_grad and not _fused(q, k, dropout):
            return _explicit(q, k, v, mask, causal, scale, dropout)
        half = q.dtype == torch.bfloat16 and q.shape[2] == 1
        if half and not fast_bf16_attention(q.device):
            # for one query, converting the keys is half the price of the bfloat16 kernel
            return attend(q.float(), k.float(), v.float(), mask, causal, scale).to(q.dtype)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scale
    )


def _fused(q: Tensor, k: Tensor, dropout: float) -> bool:
    """Whether training on a CPU is faster by the fused kernel, which knows no dropout there."""
    scores = q.shape[:3].numel() * k.shape[2]
    return q.dtype == torch.float32 and not dropout and scores >= FUSED


def _explicit(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float | None,
    dropout: float,
) -> Tensor:
    """Attention as two products and a softmax in float32.

    For training on a CPU, unless `_fused`.
    """
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    scores = (q @ k.transpose(-1, -2)).float()  # (B, H, n, m)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is None:
        scores = scores * factor
    else:  # an addend, which unlike a filled mask costs the backward pass nothing
        addend = torch.zeros(mask.shape, device=q.device).masked_fill_(~mask, -torch.inf)
        scores = torch.add(addend, scores, alpha=factor)
    return F.dropout(scores.softmax(-1), dropout).to(v.dtype) @ v
