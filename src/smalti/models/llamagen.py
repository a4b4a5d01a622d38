"""LlamaGen: a plain Llama that predicts image codes in raster order.

Sun, Jiang, Chen, Zhang, Peng, Luo, Yuan 2024, "Autoregressive Model Beats Diffusion: Llama for
Scalable Image Generation" (arXiv:2406.06525).

Unusual: rotary embedding over the two axes of the grid, and rows of ZEROS in its table for the
prefix (class or text), so that queries and keys of the prefix vanish: everybody attends to the
prefix with score 0 and reads its values. Released weights depend on it.

Letters: B images, T prefix length, N positions, D width, H heads, V codebook entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Span, TokenSpec
from smalti.config import check
from smalti.heads.of_codes import head_of
from smalti.models.generator import GeneratorConfig, either
from smalti.models.raster_stack import PrefixedLlama, Prepared
from smalti.nn.attention import KVCache
from smalti.nn.code_embedding import code_embedding
from smalti.nn.llama import Block, feed_forward_width
from smalti.nn.norms import RMSNorm
from smalti.nn.residual import drop_path_rates
from smalti.sampling.orders import scan


@dataclass(frozen=True)
class LlamaGenConfig(GeneratorConfig):
    grid: tuple[int, int] = (16, 16)
    """Height and width of the code grid."""
    vocab: int = 16384
    """Codebook entries; 2 with `channels`."""
    channels: int = 0
    """Bits of a code; 0: a code is a number."""
    depth: int = 0
    """Codes at each position, drawn one after another; 0: one."""
    depth_layers: int = 1
    """Transformer blocks of the head that draws the codes of a position, if there are several."""
    depth_dim: int = 0
    """Width of these blocks; 0: half of `dim`."""
    classes: int = 1000
    """Class labels; the null class is one more row. 0 for a text-conditional model."""
    text_length: int = 0
    """Length of the text prefix (published: 120). 0 for a class-conditional model."""
    text_dim: int = 2048
    """Width of the text features (flan-t5-xl: 2048)."""
    layers: int = 12
    """Transformer blocks."""
    heads: int = 12
    """Attention heads."""
    kv_heads: int = 0
    """Heads of keys and values, a divisor of `heads`; 0 = as many as `heads`."""
    dim: int = 768
    """Width D, a multiple of 4 * heads."""
    multiple_of: int = 256
    """The feed-forward width is 8/3 D rounded up to a multiple of this."""
    ffn_multiplier: float = 1.0
    """Factor on the feed-forward width before rounding."""
    norm_eps: float = 1e-5
    """Added to the variance in normalisation layers."""
    rope_base: float = 10000.0
    """Base of the frequencies of rotary positions."""
    dropout: float = 0.1
    """On embeddings and on the outputs of attention and feed-forward."""
    drop_path: float = 0.0
    """Rate of the last layer's dropped residual branches; earlier layers have less."""
    order: str = "row-major"
    """The scan in which codes are learned and drawn: see `smalti.sampling.orders`."""

    def __post_init__(self) -> None:
        check(
            self,
            pairs=("grid",),
            positive=("vocab", "layers", "heads", "dim", "multiple_of", "depth_layers"),
            counts=("channels", "depth", "depth_dim"),
            rates=("dropout", "drop_path"),
            above_zero=("norm_eps", "rope_base"),
        )
        either(self)
        if self.dim % (4 * self.heads):
            raise ValueError(f"dim must be a multiple of 4 * heads, got {self.dim}, {self.heads}")
        if self.kv_heads < 0 or self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"kv_heads must divide heads {self.heads}, got {self.kv_heads}")
        scan(self.order, self.grid)

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab, self.depth, self.channels)

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def prefix(self) -> int:
        """T: one class token or the text."""
        return self.text_length or 1

    @property
    def ffn_dim(self) -> int:
        return feed_forward_width(self.dim, self.multiple_of, self.ffn_multiplier)


class LlamaGen(PrefixedLlama):
    """Codes (B, N), bits (B, N, K) or stacks of codes (B, N, G), given a class or a
    text. A `CausalModel`; one position a step."""

    config: LlamaGenConfig

    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.config, self.spec, self.prefix = config, config.spec, config.prefix
        self.tok_embeddings = code_embedding(self.spec, config.dim)
        self.make_prefix()
        rates = drop_path_rates(config.drop_path, config.layers)
        self.layers = nn.ModuleList([Block(config, rate) for rate in rates])
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.head = head_of(
            self.spec, config.dim, depth_layers=config.depth_layers, depth_dim=config.depth_dim
        )
        self.init_weights()

    def hidden(
        self, codes: Tensor, cond: Prepared, span: Span, cache: KVCache | None = None
    ) -> Tensor:
        """Hidden states (B, n, D) of a span; reads codes (B, N), in the order in which they are
        drawn, of earlier slots only. Without a cache the span must be all slots."""
        x = self.rows(codes, cond.prefix, span)  # (B, n, D), at first (B, T - 1 + n, D)
        x = F.dropout(x, self.config.dropout, self.training)
        place = self.place(cond, span)
        for i, layer in enumerate(self.layers):
            x = layer(x, place, i, cache)
        return self.norm(x[:, -span.slots.shape[-1] :])  # (B, n, D)


def tiny() -> LlamaGenConfig:
    """A model of a few thousand parameters, for tests."""
    return LlamaGenConfig(
        grid=(4, 4), vocab=32, classes=5, layers=2, heads=2, dim=32, multiple_of=32, dropout=0.0
    )


def _sized(layers: int, heads: int, dim: int) -> dict[str, Any]:
    return {"layers": layers, "heads": heads, "dim": dim}


SIZES: dict[str, dict[str, Any]] = {
    "mini": _sized(6, 4, 192),
    "small": _sized(8, 6, 384),
    "B": _sized(12, 12, 768),
    "L": _sized(24, 16, 1024),
    "XL": _sized(36, 20, 1280),
    "XXL": _sized(48, 24, 1536),
    "XXXL": _sized(48, 40, 2560),
    "1B": _sized(22, 32, 2048),
    "3B": _sized(24, 32, 3200),
    "7B": _sized(32, 32, 4096),
}
"""Layers, heads and width of every published size, and two small ones."""
