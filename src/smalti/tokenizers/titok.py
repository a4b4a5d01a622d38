"""TiTok: a picture as 32 to 128 codes that stand for no places.

Yu, Weber, Deng, Shen, Cremers, Chen 2024, "An Image is Worth 32 Tokens for Reconstruction and
Generation" (arXiv:2406.07550); with texts TA-TiTok, Kim, He, Yu et al. 2025 (arXiv:2501.07730). In
the form of bytedance/1d-tokenizer, commit 942a96f.

Unusual: a ViT reads patches and K learned tokens, and only what becomes of the tokens is coded. A
second ViT reads their codes and one vector for each patch, equal for all pictures, and what becomes
of the patches is the picture. So a code is of the whole picture, which cannot be edited by codes.
The first releases (`scrambled`, `proxy`) mix channels of tokens before they are coded, and predict
codes of a MaskGIT-VQGAN, whose decoder makes pixels of them as sure as they are; later ones predict
pixels. TA-TiTok's decoder reads features of a text too. Images are in [0, 1] inside; every public
method takes and gives [-1, 1].

Letters: B images, H, W image size, K tokens, C channels of a code, P patch size, h, w patches of a
picture, D width of a ViT, V codes, T tokens of a text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.nn.linear import Linear
from smalti.nn.vision import Block, TowerConfig
from smalti.text.clip import CLIP, CLIPConfig
from smalti.text.encoders import read_each
from smalti.tokenizers import maskgit_vqgan
from smalti.tokenizers.base import TokenizerConfig
from smalti.tokenizers.maskgit_vqgan import MaskGITVQGAN, MaskGITVQGANConfig
from smalti.tokenizers.one_grid import GridTokenizer
from smalti.tokenizers.quantize.vq import VectorQuantizer


@dataclass(frozen=True)
class TrunkConfig:
    layers: int = 12
    """Transformer blocks."""
    heads: int = 12
    """Attention heads."""
    dim: int = 768
    """Width D, a multiple of `heads`; the feed-forward is four times as wide."""

    def __post_init__(self) -> None:
        check(self, positive=("layers", "heads", "dim"), multiple=("dim", "heads"))

    @property
    def block(self) -> TowerConfig:
        return TowerConfig(self.layers, self.heads, self.dim, 4 * self.dim, "none", 1e-5)

    @property
    def std(self) -> float:
        """Standard deviation of new weights: 0.02 in the published widths, 1 / sqrt(D) in narrower
        ViTs, whose latents would else be the same for all pictures."""
        return 0.02 if self.dim >= 512 else self.dim**-0.5


SMALL, BASE, LARGE = TrunkConfig(8, 8, 512), TrunkConfig(), TrunkConfig(24, 16, 1024)
"""The published sizes."""


@dataclass(frozen=True)
class ProxyConfig:
    """Codes of a MaskGIT-VQGAN that the decoder predicts, and the decoder that they are for."""

    vocab: int = 0
    """Codes V; 0: the decoder predicts pixels."""
    dim: int = 256
    """Codebook dimensions."""
    channels: int = 128
    """Width of the first level of its decoder."""
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    """Width of each level as a multiple of `channels`; each but the last is half of the size."""
    blocks: int = 2
    """Residual blocks of each level."""

    def __post_init__(self) -> None:
        check(self, positive=("dim", "channels", "blocks"), counts=("vocab",))
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"multipliers must be positive integers, got {self.multipliers}")

    @property
    def factor(self) -> int:
        """Pixels of a code, along one side."""
        return 2 ** (len(self.multipliers) - 1)

    @staticmethod
    def of(config: MaskGITVQGANConfig) -> ProxyConfig:
        """Those of a tokenizer."""
        c = config
        return ProxyConfig(c.vocab, c.dim, c.channels, c.multipliers, c.blocks)


@dataclass(frozen=True)
class TokensConfig(TokenizerConfig):
    """What the settings of tokenizers of tokens without places have in common."""

    patch: int = 16
    """Pixels of a patch of the encoder, along one side."""
    decoder_patch: int = 0
    """The same of the decoder; 0: as the encoder's."""
    tokens: int = 32
    """Codes K of a picture."""
    dim: int = 12
    """Channels C of a code."""
    encoder: TrunkConfig = LARGE
    """The ViT that reads patches."""
    decoder: TrunkConfig = LARGE
    """The ViT that reads codes."""
    scrambled: bool = False
    """Mix the channels of all tokens before they are coded, as the first releases do: (K, D) is
    read as (D, K)."""
    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    """Codes of another tokenizer that the decoder predicts in the place of pixels."""
    text_length: int = 0
    """Tokens T of a text that the decoder reads; 0: none."""
    text_dim: int = 768
    """Width of their features."""
    text_model: str = "openai/clip-vit-large-patch14-336"
    """Hub id or folder of the CLIP whose features they are."""

    def __post_init__(self) -> None:
        check(self, pairs=("size",), positive=("patch", "tokens", "dim", "text_dim"))
        check(self, counts=("decoder_patch", "text_length"))
        for side in (self.patch, self.shown):
            if any(pixels % side for pixels in self.size):
                raise ValueError(f"size must be multiples of {side} pixels, got {self.size}")
        if self.proxy.vocab and self.proxy.factor != self.shown:
            raise ValueError(
                f"proxy codes of {self.proxy.factor} pixels need a decoder's patch of as many, "
                f"got {self.shown}"
            )

    @property
    def shown(self) -> int:
        """Pixels of a patch of the decoder, along one side."""
        return self.decoder_patch or self.patch

    @property
    def factor(self) -> int:
        """Image pixels of a patch, along one side: codes have no places."""
        return self.patch

    def cells(self, patch: int) -> tuple[int, int]:
        """Height and width in patches."""
        return self.size[0] // patch, self.size[1] // patch


@dataclass(frozen=True)
class TiTokConfig(TokensConfig):
    vocab: int = 4096
    """Codebook entries."""
    l2_norm: bool = True
    """Normalise codes and codebook entries before distances are measured."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, several=("vocab",))

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec(((1, self.tokens),), self.vocab)

    def coding(self, proxy: MaskGITVQGAN) -> Self:
        """The same whose decoder predicts the codes of a tokenizer of the same pictures.

        Raises ValueError if there is no such thing.
        """
        held = proxy.config
        if type(held) is not MaskGITVQGANConfig or proxy.size != self.size:
            raise ValueError(
                f"proxy codes are those of a MaskGITVQGAN of {self.size} pixels, got "
                f"{type(proxy).__name__} of {proxy.size}"
            )
        return replace(self, proxy=ProxyConfig.of(held), decoder_patch=held.factor)


class Trunk(nn.Module):
    """A ViT between two norms, (B, n, D) to the same shape."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(config.dim)
        self.layers = nn.ModuleList([Block(config.block) for _ in range(config.layers)])
        self.norm_out = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor, kept: slice) -> Tensor:
        """What becomes of the positions `kept`."""
        x = self.norm_in(x)
        for layer in self.layers:
            x = layer(x)
        return self.norm_out(x[:, kept])


class Encoder(nn.Module):
    """Images (B, 3, H, W) in [0, 1] to latents (B, channels, 1, K)."""

    def __init__(self, config: TokensConfig, channels: int) -> None:
        super().__init__()
        dim, self.scrambled = config.encoder.dim, config.scrambled
        self.patches = nn.Conv2d(3, dim, config.patch, config.patch)
        cells = math.prod(config.cells(config.patch))
        self.positions = nn.Parameter(torch.empty(1 + cells, dim))
        """Of patches; the first is a token of its own."""
        self.tokens = nn.Parameter(torch.empty(config.tokens, dim))
        self.trunk = Trunk(config.encoder)
        self.out = Linear(dim, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).mT  # (B, h * w, D)
        x = F.pad(x, (0, 0, 1, 0)) + self.positions
        tokens = self.tokens.to(x.dtype).expand(len(x), -1, -1)
        x = self.trunk(torch.cat((x, tokens), 1), slice(x.shape[1], None))  # (B, K, D)
        if self.scrambled:
            x = x.reshape(x.shape[0], x.shape[2], x.shape[1]).mT
        return self.out(x).mT.unsqueeze(2)


class Decoder(nn.Module):
    """Latents (B, C, 1, K), and features (B, T, text_dim) of a text, to images (B, 3, H, W), about
    [0, 1], or to logits (B, h * w, V) of proxy codes."""

    def __init__(self, config: TokensConfig) -> None:
        super().__init__()
        dim, side = config.decoder.dim, config.shown
        self.grid, self.text_length = config.cells(side), config.text_length
        self.embed = Linear(config.dim, dim)
        self.positions = nn.Parameter(torch.empty(1 + math.prod(self.grid), dim))
        """What is read at each patch; the first is a token of its own."""
        self.token_positions = nn.Parameter(torch.empty(config.tokens, dim))
        if config.text_length:
            self.text_embed = Linear(config.text_dim, dim)
            self.text_positions = nn.Parameter(torch.empty(config.text_length, dim))
        self.trunk = Trunk(config.decoder)
        if config.proxy.vocab:
            self.predict = nn.Sequential(
                Linear(dim, 2 * dim), nn.Tanh(), Linear(2 * dim, config.proxy.vocab)
            )
        else:
            self.pixels = Linear(dim, 3 * side**2)
            self.conv_out = nn.Conv2d(3, 3, 3, padding=1)

    def read(self, latent: Tensor, text: Tensor | None) -> Tensor:
        """What becomes of patches, (B, h * w, D)."""
        x = self.embed(latent.squeeze(2).mT) + self.token_positions  # (B, K, D)
        parts = [self.positions.to(x.dtype).expand(len(x), -1, -1), x]
        if text is not None:
            if tuple(text.shape[1:]) != (self.text_length, self.text_embed.in_features):
                wanted = f"(B, {self.text_length}, {self.text_embed.in_features})"
                raise ValueError(f"features of texts must be {wanted}, got {tuple(text.shape)}")
            parts.append(self.text_embed(text) + self.text_positions)
        return self.trunk(torch.cat(parts, 1), slice(1, len(self.positions)))

    def logits(self, latent: Tensor, text: Tensor | None = None) -> Tensor:
        """Of proxy codes, (B, h * w, V)."""
        return self.predict(self.read(latent, text))

    def forward(self, latent: Tensor, text: Tensor | None = None) -> Tensor:
        """Images (B, 3, H, W), about [0, 1]."""
        x, side = self.pixels(self.read(latent, text)), math.isqrt(self.pixels.out_features // 3)
        x = x.unflatten(1, self.grid).unflatten(-1, (side, side, 3))  # (B, h, w, P, P, 3)
        return self.conv_out(x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3))


class TokensTokenizer(GridTokenizer):
    """One whose codes are tokens without places, of K positions in a row."""

    any_grid = False
    placed = False
    config: Any
    """A `TokensConfig`."""

    def __init__(self, config: TokensConfig, channels: int) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.encoder = Encoder(config, channels)
        self.decoder = Decoder(config)
        self.told = config.text_length > 0
        if self.told:
            length, width = config.text_length, config.text_dim
            self.reader = CLIP(CLIPConfig(config.text_model, length, width, last=True))
        if config.proxy.vocab:
            p = config.proxy
            self.proxy_codes = nn.Embedding(p.vocab, p.dim)
            widths = [p.channels * m for m in p.multipliers]
            self.pixel_decoder = maskgit_vqgan.Decoder(p.dim, widths, p.blocks)
        self.init_weights()

    def init_weights(self) -> None:
        """Both ViTs by their widths; a last convolution without effect."""
        fill(self.encoder, self.config.encoder.std)
        fill(self.decoder, self.config.decoder.std)
        if not self.config.proxy.vocab:
            nn.init.dirac_(self.decoder.conv_out.weight)

    @property
    def last_layer(self) -> Tensor:
        part = self.pixel_decoder if self.config.proxy.vocab else self.decoder
        return part.get_parameter("conv_out.weight")

    def latent(self, images: Tensor) -> Tensor:
        """(B, channels, 1, K) of images in [-1, 1]."""
        return self.encoder((images + 1) / 2)

    def read(self, texts: Sequence[str]) -> Tensor:
        """Features (B, T, text_dim) of texts. Raises ValueError if the decoder reads none, and if
        there is no CLIP of them."""
        if not self.told:
            return super().read(texts)
        features, _ = read_each(self.reader, texts, next(self.parameters()).device)
        return features.float()

    def render(self, latent: Tensor, text: Tensor | None = None) -> Tensor:
        """What stands for codes, (B, C, 1, K), and features (B, T, text_dim) of a text, to images
        (B, 3, H, W), not clamped. Raises ValueError for a text that the decoder cannot read, and if
        it reads one and there is none."""
        if (text is None) == self.told:
            reads = "a text of each picture, got none" if self.told else "no text"
            raise ValueError(f"the decoder of this {type(self).__name__} reads {reads}")
        if not self.config.proxy.vocab:
            return self.decoder(latent, text) * 2 - 1
        likely = self.decoder.logits(latent, text).softmax(-1)  # (B, h * w, V)
        vectors = (likely @ self.proxy_codes.weight).mT.unflatten(2, self.decoder.grid)
        return self.pixel_decoder(vectors.contiguous()) * 2 - 1


def fill(part: nn.Module, std: float) -> None:
    """Give a part new weights: normal, cut off; zero biases; positions by the width."""
    for module in part.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        for name, weight in module.named_parameters(recurse=False):
            if name.endswith(("positions", "tokens")):
                nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)


class TiTok(TokensTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to codes (B, K), and back."""

    config: TiTokConfig

    def __init__(self, config: TiTokConfig) -> None:
        super().__init__(config, config.dim)
        self.quantize = VectorQuantizer(config.vocab, config.dim, config.l2_norm)

        self._proxy = list[MaskGITVQGAN]()  # a list registers nothing

    @property
    def codebook(self) -> nn.Module:
        return self.quantize

    def code_by(self, proxy: MaskGITVQGAN) -> None:
        """Take the codes and the decoder of the tokenizer whose configuration `coding` was given,
        which stay as they are while the first stage of training predicts its codes."""
        self.proxy_codes.load_state_dict(proxy.quantize.embedding.state_dict())
        self.pixel_decoder.load_state_dict(proxy.decoder.state_dict())
        for part in (self.proxy_codes, self.pixel_decoder):
            part.requires_grad_(False)
        self._proxy = [proxy.requires_grad_(False)]

    def take_proxy(self) -> MaskGITVQGAN:
        """The tokenizer whose codes the first stage predicts; it is no part of this one."""
        return self._proxy.pop()

    def proxy_logits(self, latent: Tensor) -> Tensor:
        """Logits (B, h * w, V) of proxy codes, of what stands for codes (B, C, 1, K)."""
        return self.decoder.logits(latent)

    def decode(
        self, codes: Tensor, spec: TokenSpec | None = None, text: Tensor | None = None
    ) -> Tensor:
        """Codes (B, K), and of a TA-TiTok features (B, T, text_dim) of a text, to images
        (B, 3, H, W), about [-1, 1], not clamped."""
        grid = codes.unflatten(1, self.gives(spec).grids[0])  # (B, 1, K)
        return self.render(self.quantize.decode(grid), text)


def tiny() -> TiTokConfig:
    """A model of a few thousand parameters, for tests."""
    trunk = TrunkConfig(1, 2, 16)
    return TiTokConfig((16, 16), 4, tokens=6, dim=4, encoder=trunk, decoder=trunk, vocab=32)
