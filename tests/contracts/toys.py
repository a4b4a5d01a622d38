"""Systems that do not exist, in as few lines as they take: proof that the contracts carry. Each
brings its own files' worth and nothing else; no shared module knows them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Cond, Draw, Reads, Rowwise, Span, TokenSpec
from smalti.models.generator import Generator, GeneratorConfig
from smalti.models.llamagen import LlamaGen, LlamaGenConfig
from smalti.nn.attention import KVCache, attend
from smalti.sampling.chance import Chance
from smalti.sampling.filters import draw
from smalti.sampling.noise import Noise, SlotNoise
from smalti.tokenizers.base import ImageTokenizer, TokenizerConfig
from smalti.tokenizers.quantize.vq import Quantized

# -- a head that draws several codes for a position, one after another


class Summed(nn.Embedding):
    """Codes (B, n, *trailing) to the sum of what each stands for, (B, n, D)."""

    def forward(self, input: Tensor) -> Tensor:
        codes = input.flatten(2)
        places = torch.arange(codes.shape[2], device=codes.device)
        return super().forward(codes * codes.shape[2] + places).sum(2)


class DepthHead(nn.Module):
    """Hidden states (B, n, D) to codes (B, n, *trailing), each given those before it."""

    def __init__(self, dim: int, vocab: int, trailing: tuple[int, ...]) -> None:
        super().__init__()
        self.trailing, self.depth = trailing, trailing[0]
        self.seen = nn.Embedding(vocab * self.depth, dim)
        self.proj = nn.Linear(dim, vocab)

    def loss(self, h: Tensor, codes: Tensor, noise: SlotNoise | None) -> Tensor:
        nats = []
        for d in range(self.depth):  # teacher forcing
            logits = self.proj(h).float().flatten(0, 1)
            nats.append(F.cross_entropy(logits, codes[..., d].flatten(), reduction="none"))
            h = h + self.seen(codes[..., d] * self.depth + d)
        return torch.stack(nats).sum(0).view(codes.shape[:2])

    def sample(self, h: Tensor, chance: Chance) -> Draw:
        codes, logps, numbers = [], [], chance.noise.uniform(self.depth)  # (B, n, depth)
        for d in range(self.depth):
            logits = chance.filters(chance.guide.merge(self.proj(h).float()))
            code, logp = draw(logits, numbers[..., d])
            codes.append(code)
            logps.append(logp)
            h = h + chance.guide.tile(self.seen(code * self.depth + d))
        return Draw(torch.stack(codes, -1), torch.stack(logps).sum(0), h)


@dataclass(frozen=True)
class DepthConfig(LlamaGenConfig):
    depth: int = 2


class DepthModel(LlamaGen):
    """LlamaGen over stacks of codes, or over bits."""

    def __init__(self, config: DepthConfig) -> None:
        super().__init__(replace(config, depth=0, channels=0))
        self.config, self.spec = config, config.spec
        self.tok_embeddings = Summed(config.vocab * config.spec.trailing[0], config.dim)
        self.head = DepthHead(config.dim, config.vocab, config.spec.trailing)

    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)


# -- a tokenizer whose codes are the signs of its latents: nothing to look up, nothing to keep alive


@dataclass(frozen=True)
class BitConfig(TokenizerConfig):
    size: tuple[int, int] = (16, 16)
    factor: int = 4
    bits: int = 6

    @property
    def spec(self) -> TokenSpec:
        grid = (self.size[0] // self.factor, self.size[1] // self.factor)
        return TokenSpec((grid,), vocab=2, channels=self.bits)


class SignQuantizer(nn.Module):
    def forward(self, z: Tensor, entropy: bool = False) -> Quantized:
        signs = torch.where(z > 0, 1.0, -1.0)
        codes = (z > 0).long().flatten(2).transpose(1, 2)  # (B, N, K)
        return Quantized(z + (signs - z).detach(), codes, {"commitment": F.mse_loss(z, signs)})


class BitTokenizer(ImageTokenizer):
    any_grid = True

    def __init__(self, config: BitConfig) -> None:
        super().__init__()
        self.config, self.spec, self.quantize = config, config.spec, SignQuantizer()
        cells = 3 * config.factor**2
        self.encoder = nn.Conv2d(3, config.bits, config.factor, config.factor)
        self.decoder = nn.Sequential(nn.Conv2d(config.bits, 32, 3, padding=1), nn.SiLU())
        self.out = nn.Conv2d(32, cells, 1)

    def latent(self, images: Tensor) -> Tensor:
        return self.encoder(images)

    def render(self, latent: Tensor) -> Tensor:
        return F.pixel_shuffle(self.out(self.decoder(latent)), self.config.factor)

    def encode(self, images: Tensor, spec: TokenSpec | None = None) -> Tensor:
        return self.quantize(self.latent(images)).codes

    def decode(self, codes: Tensor, spec: TokenSpec | None = None) -> Tensor:
        signs = (2.0 * codes - 1).transpose(1, 2).unflatten(2, self.gives(spec).grids[0])
        return self.render(signs)


# -- a model that refines a whole span of numbers against a cache which it reads and does not write


@dataclass(frozen=True)
class SpanConfig(GeneratorConfig):
    channels: int = 3
    dim: int = 32
    classes: int = 5
    rounds: int = 4

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec(((2, 2), (4, 4)), channels=self.channels)


@dataclass
class Prepared(Rowwise):
    label: Tensor
    """(B, 1, D)."""


class SpanModel(Generator):
    """Two spans, of 4 and 16 positions; each begins as noise and is denoised whole by a flow."""

    def __init__(self, config: SpanConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.cls_embedding = nn.Embedding(config.classes + 1, config.dim)
        self.pos = nn.Embedding(self.spec.positions, config.dim)
        self.read, self.time = nn.Linear(config.channels, config.dim), nn.Linear(1, config.dim)
        self.qkv, self.out = nn.Linear(config.dim, 3 * config.dim), nn.Linear(config.dim, 3)

    @property
    def reads(self) -> Reads:
        return Reads(self.config.classes)

    def prepare(self, cond: Cond, orders=None, spec=None) -> Prepared:
        return Prepared(self.cls_embedding(cond.class_ids(self.config.classes)).unsqueeze(1))

    def cache(self, batch: int, spec=None) -> KVCache:
        return KVCache(1, batch, 1, self.spec.positions, self.config.dim, torch.float32, "cpu")

    def velocity(self, x: Tensor, t: Tensor, cond: Prepared, span: Span, cache: KVCache) -> Tensor:
        """Of the span's numbers x (B, n, C) at times t (B, 1, 1)."""
        h = self.read(x) + self.time(t) + self.pos(span.slots) + cond.label
        q, k, v = (part.unsqueeze(1) for part in self.qkv(h).chunk(3, -1))
        k, v = cache.update(0, span.slots, span.reach, k, v, span.keep)
        return self.out(F.silu(h + attend(q, k, v).squeeze(1)))

    def written(self, codes: Tensor, cond: Prepared, span: Span, cache: KVCache) -> None:
        """Write the span before into the cache, clean and as it became: drawn or given."""
        before = self.spec.grids[0][0] * self.spec.grids[0][1]
        if span.start:
            slots = torch.arange(before)
            one = torch.ones(len(codes), 1, 1)
            self.velocity(codes[:, slots], one, cond, Span(slots, before, 0), cache)

    def draw(self, codes, cond, span, cache, chance: Chance) -> Draw:
        guide, rounds, look = chance.guide, self.config.rounds, span._replace(keep=False)
        self.written(guide.tile(codes), cond, span, cache)
        x = chance.noise.normal(self.config.channels)  # (B, n, C)
        for i in range(rounds):
            t = x.new_full((len(x), 1, 1), i / rounds)
            flow = self.velocity(guide.tile(x), guide.tile(t), cond, look, cache)
            x = x + guide.merge(flow) / rounds
        return Draw(x, torch.full_like(x[..., 0], torch.nan), x)

    def loss(self, codes, cond, orders=None, noise: Noise | None = None) -> Tensor:
        prepared, cache, losses, start = self.prepare(cond), self.cache(len(codes)), [], 0
        for n in self.blocks():
            slots = torch.arange(start, start + n)
            span = Span(slots, start + n, start, keep=False)
            with torch.no_grad():
                self.written(codes, prepared, span, cache)
            numbers, clean = SlotNoise.of(noise, codes, slots), codes[:, slots]
            dirt = numbers.normal(self.config.channels)
            t = numbers.source.uniform(slots[:1], step=9).unsqueeze(-1)  # (B, 1, 1)
            flow = self.velocity(torch.lerp(dirt, clean, t), t, prepared, span, cache)
            losses.append((flow - (clean - dirt)).square().mean(-1))
            start += n
        return torch.cat(losses, 1)
