"""Meissonic: a masked transformer of two streams, words and codes, that draws pictures from texts.

Bai, Ye, Chow, Song, Chen, Li, Dong, Zhu, Yan 2024, "Meissonic: Revitalizing Masked Generative
Transformers for Efficient High-Resolution Text-to-Image Synthesis" (arXiv:2410.08261), commit
9360def of viiika/Meissonic.

Unusual beside MaskGIT: the first blocks keep words and codes in streams with weights of their own
that attend to both, the later ones are of one stream whose feed-forward runs beside attention. Each
block is modulated by one vector: the text as a whole, five micro-conditions (width and height of
the picture, where it was cut, how beautiful it is), and how far the drawing has come. Rows and
columns turn queries and keys, words are not turned, so that grids of any size are drawn. A
convolution makes one position of 2 x 2 codes, and another one unmakes it.

Letters: B images, N codes, n positions of the transformer, T words, C width of their features, D
width, H heads, hd = D / H, W wanted codes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Cond, Draw, Reads, TokenSpec, Turn
from smalti.heads.of_codes import head_of
from smalti.models.generator import Generator
from smalti.models.meissonic_layers import (
    EPS,
    SINUSOID,
    THOUSAND,
    Embed,
    JointBlock,
    MeissonicConfig,
    Prepared,
    Resampling,
    SingleBlock,
    Stream,
    check_even,
    sinusoid,
    turns,
)
from smalti.nn.code_embedding import code_embedding
from smalti.nn.linear import Linear
from smalti.nn.norms import RMSNorm
from smalti.sampling.chance import Chance
from smalti.sampling.noise import Noise, SlotNoise


class Meissonic(Generator):
    """Codes (B, N) given a text. A `MaskedModel`."""

    loop = "masked"
    confidence = 2.0
    any_grid = True
    config: MeissonicConfig
    NO_DECAY = ("tok_embeddings.*", "null")
    """What has no weight decay beside norms and biases."""

    def __init__(self, config: MeissonicConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        dim, (words, pooled) = config.dim, config.widths
        self.null = nn.Parameter(torch.empty(config.text_length, config.text_dim))
        self.text_proj = Linear(words, dim)
        self.text_norm = RMSNorm(dim, EPS)
        self.cond_embed = Embed(pooled + 5 * SINUSOID, dim, bias=False)
        self.text_embed = Embed(dim, dim)
        self.time_embed = Embed(SINUSOID, dim)
        self.guide_embed = None if config.guided is None else Embed(SINUSOID, dim)
        self.tok_embeddings = code_embedding(self.spec, dim, hidden=True)
        self.embed_norm = RMSNorm(dim, EPS)
        self.embed_proj = Linear(dim, dim, bias=False)
        self.down = Resampling(dim, up=False) if config.compress else None
        self.in_norm = RMSNorm(dim, EPS)
        self.in_proj = Linear(dim, dim, bias=False)
        joint = [JointBlock(config) for _ in range(config.joint_layers)]
        single = [SingleBlock(config) for _ in range(config.single_layers)]
        self.layers = nn.ModuleList([*joint, *single])
        self.last_norm = RMSNorm(dim, EPS)
        self.last_proj = Linear(dim, dim, bias=False)
        self.up = Resampling(dim, up=True) if config.compress else None
        self.out = Linear(dim, dim, bias=False)
        self.out_norm = RMSNorm(dim, EPS)
        self.head = head_of(self.spec, dim)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Products that keep the variance, cut off, and zero biases; blocks begin nearly off, and
        the head as if any code were as likely as any other."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                width = module.weight[0].numel()
                nn.init.trunc_normal_(module.weight, std=width**-0.5)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=1.0)
            if isinstance(module, Stream | SingleBlock):
                module.adaln.weight.mul_(0.1)
        nn.init.trunc_normal_(self.null, std=1.0)
        self.head.init_weights()

    # -- what it says of itself

    @property
    def reads(self) -> Reads:
        return Reads(0, self.config.text_length, self.config.text_dim)

    @property
    def reader(self) -> nn.Module:
        return self.text_proj

    @torch.no_grad()
    def learn_text(self, encoder: Any) -> None:
        """Let what an encoder that does not learn says of an empty text stand for no text."""
        if not encoder.learned:
            features, _ = encoder(encoder.tokenize([""]))
            self.null.copy_(features[0])
            encoder.release()

    def draws(self, spec: TokenSpec | None) -> TokenSpec:
        """The codes to draw: those of `spec`, or its own. Raises ValueError for other codes, and
        for a grid that cannot be compressed."""
        spec = super().draws(spec)
        check_even(spec.grids[0], self.config.compress)
        return spec

    # -- what it reads

    def texts(self, cond: Cond) -> tuple[Tensor, Tensor, Tensor]:
        """Features of words (B, T, .) and which there are (B, T), and each text as a whole
        (B, .)."""
        if cond.text is None or cond.text_mask is None:
            raise ValueError("this model is text-conditional: give text and text_mask")
        text, mask = cond.text.to(self.null.dtype), cond.text_mask.bool()
        if cond.drop is not None:
            text = torch.where(cond.drop[:, None, None], self.null, text)
        words, pooled = self.config.widths
        if self.config.pooled:
            return text[:, :-1, :words], mask[:, :-1], text[:, -1, :pooled]
        text = text[..., :words]
        there = mask.unsqueeze(-1)
        return text, mask, (text * there).sum(1) / there.sum(1).clamp(min=1)

    def told(self, whole: Tensor, micro: Tensor) -> Tensor:
        """Texts as a whole (B, .) and micro-conditions (B, 5) as a vector, (B, D)."""
        micro = sinusoid(micro).flatten(1).to(whole.dtype)  # (B, 5 * 256)
        told = self.text_embed(self.cond_embed(torch.cat((whole, micro), 1)))
        if self.guide_embed is None or self.config.guided is None:
            return told
        guidance = torch.full((len(whole),), self.config.guided, device=whole.device)
        return told + self.guide_embed(sinusoid(THOUSAND * guidance))

    def micro(self, grid: tuple[int, int], device: torch.device | str | None = None) -> Tensor:
        """The micro-conditions of a picture that was not cut, (1, 5): width, height, 0, 0 and its
        beauty."""
        height, width = (self.config.factor * side for side in grid)
        return torch.tensor([[width, height, 0.0, 0.0, self.config.beauty]], device=device)

    def prepare(self, cond: Cond, spec: TokenSpec | None = None) -> Prepared:
        """The text, what modulates the blocks, and how positions turn."""
        (grid,) = self.draws(spec).grids
        words, mask, whole = self.texts(cond)
        micro = self.micro(grid, whole.device).expand(len(whole), -1)
        inner = (grid[0] // 2, grid[1] // 2) if self.config.compress else grid
        turn = turns(words.shape[1], inner, self.config.axes).to(whole.device)
        mask = F.pad(mask, (0, inner[0] * inner[1]), value=True)
        words = self.text_norm(self.text_proj(words))  # (B, T, D)
        return Prepared(words, mask[:, None, None], self.told(whole, micro), turn, grid)

    def cache(self, batch: int, spec: TokenSpec | None = None) -> None:
        """None: every pass reads everything."""

    # -- the transformer

    def time(self, turn: Turn) -> Tensor:
        """How far the drawing has come, (B,) or (1,)."""
        share = (~turn.known).float().mean(1)
        if self.config.clock == "share":
            return share
        if turn.left is None:
            return THOUSAND * share
        return torch.as_tensor(turn.left, device=share.device).view(-1)

    def hidden(self, codes: Tensor, cond: Prepared, turn: Turn, cache: None = None) -> Tensor:
        """Hidden states (B, W, D) of the wanted positions; reads codes (B, N) of known ones."""
        x = self.embed_proj(self.embed_norm(self.tok_embeddings(codes, turn.known)))  # (B, N, D)
        x = x if self.down is None else self.down(x, cond.grid)  # (B, n, D)
        x = self.in_proj(self.in_norm(x))
        told = F.silu(cond.told + self.time_embed(sinusoid(THOUSAND * self.time(turn))))
        words, rotation = cond.words, cond.rotation[0].unsqueeze(1)
        joint = self.config.joint_layers
        for layer in self.layers[:joint]:
            words, x = layer(words, x, told, rotation, cond.mask)
        x = torch.cat((words, x), 1)  # (B, T + n, D)
        for layer in self.layers[joint:]:
            x = layer(x, told, rotation, cond.mask)
        x = self.last_proj(self.last_norm(x[:, words.shape[1] :]))  # (B, n, D)
        if self.up is not None:
            x = self.up(x, (cond.grid[0] // 2, cond.grid[1] // 2))  # (B, N, D)
        if turn.wanted is not None:
            x = x.gather(1, turn.wanted.unsqueeze(-1).expand(-1, -1, x.shape[-1]))  # (B, W, D)
        return self.out_norm(self.out(x))

    def draw(self, codes: Tensor, cond: Prepared, turn: Turn, cache: None, chance: Chance) -> Draw:
        """Draw codes (B, W) of the wanted positions."""
        guide = chance.guide
        h = self.hidden(guide.tile(codes), cond, turn.tile(guide), cache)
        return self.head.sample(h, chance)

    def loss(
        self, codes: Tensor, cond: Cond, known: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """Negative log-likelihood of each unknown code given the known ones: (B, N) in nats; 0 at
        those. `known` (B, N) bool; None: nothing is known."""
        if known is None:
            known = codes.new_zeros(codes.shape[:2], dtype=torch.bool)
        h = self.hidden(codes, self.prepare(cond), Turn(known, None, codes.shape[1]))
        cells = torch.arange(codes.shape[1], device=codes.device)
        loss = self.head.loss(h, codes, SlotNoise.of(noise, codes, cells))
        return self.weighed(loss, known)


def tiny() -> MeissonicConfig:
    """A model of a few thousand parameters, for tests."""
    return MeissonicConfig(
        grid=(4, 4),
        vocab=32,
        factor=4,
        text_length=6,
        text_dim=12,
        joint_layers=1,
        single_layers=1,
        heads=2,
        dim=32,
        axes=(4, 6, 6),
    )


SIZES: dict[str, dict[str, Any]] = {
    "1B": {"joint_layers": 14, "single_layers": 28, "heads": 8, "dim": 1024},
}
"""Layers, heads and width by name."""
