"""What heads have in common that draw the parts of a code one after another.

The hidden state of a position is the first token of a short sequence, and each part that is drawn
is the next one; a small causal transformer reads them. Learning reads all parts at once.

B images, n positions, D width of the head, G parts, R rows of all branches and positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from smalti.codes import Draw, Guide
from smalti.heads.categorical import CategoricalHead
from smalti.nn.attention import KVCache
from smalti.nn.llama import Place
from smalti.sampling.chance import Chance
from smalti.sampling.guidance import Further
from smalti.sampling.noise import SlotNoise


class HeadInTurn(nn.Module):
    """Hidden states (B, n, D) to codes of `count` parts.

    A head of this kind has `layers` and a `norm`. It says what the tokens are (`first`, `behind`)
    and which head each part has (`each`). Guidance leads `guidance[g]` times as far for part g, and
    its temperature is `temperature[g]` times as high; () is once for all.
    """

    layers: nn.ModuleList
    norm: nn.Module

    def __init__(
        self,
        count: int,
        dim: int,
        heads: int,
        guidance: Sequence[float] = (),
        temperature: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.count, self.heads, self.head_dim = count, heads, dim // heads
        self.guidance = tuple(guidance) or (1.0,) * count
        self.temperature = tuple(temperature) or (1.0,) * count
        self._turns: dict[torch.device, Tensor | None] = {}

    # -- what a head of this kind says of itself

    def each(self) -> list[CategoricalHead]:
        """The head of each part."""
        raise NotImplementedError

    def split(self, codes: Tensor) -> Tensor:
        """Codes (B, n, *trailing) as their parts, (B, n, G)."""
        return codes

    def join(self, parts: Tensor) -> Tensor:
        """Parts (B, n, G) as codes (B, n, *trailing)."""
        return parts

    def first(self, h: Tensor) -> Tensor:
        """The first token, (B, n, D), of hidden states."""
        return h

    def behind(self, parts: Tensor) -> Tensor:
        """The tokens behind the first g parts (B, n, g), (B, n, g, D)."""
        raise NotImplementedError

    def latest(self, parts: list[Tensor]) -> Tensor:
        """The last of these tokens, (B, n, D), of parts (B, n) each."""
        return self.behind(torch.stack(parts, -1))[..., -1, :]

    def rotation(self, device: torch.device) -> Tensor | None:
        """How tokens turn queries and keys, (G, 1, hd / 2); None: not at all."""
        return None

    def turns(self, device: torch.device) -> Tensor | None:
        """`rotation`, kept: to bring it to a device, it is waited for."""
        if device not in self._turns:
            with torch.inference_mode(False):
                self._turns[device] = self.rotation(device)
        return self._turns[device]

    # -- learning and drawing

    def init_weights(self) -> None:
        """Zeros for the logits: any code is as likely as any other."""
        for part in self.each():
            part.init_weights()

    def places(self, device: torch.device) -> list[Place]:
        """Of each token alone, behind those before it."""
        turn, tokens = self.turns(device), torch.arange(self.count, device=device)
        turns = [None if turn is None else turn[g : g + 1] for g in range(self.count)]
        return [
            Place(tokens[g : g + 1], g + 1, turns[g], None, False, True) for g in range(self.count)
        ]

    def states(self, h: Tensor, parts: Tensor) -> Tensor:
        """What each part is predicted from, (B, n, G, D), of parts (B, n, G) that are known."""
        first = self.first(h).unsqueeze(2)
        x = torch.cat((first, self.behind(parts[..., :-1])), 2).flatten(0, 1)  # (R, G, D)
        tokens = torch.arange(self.count, device=h.device)
        place = Place(tokens, self.count, self.turns(h.device), None, True, True)
        for i, layer in enumerate(self.layers):
            x = layer(x, place, i, None)
        return self.norm(x).unflatten(0, h.shape[:2])

    def logits(self, h: Tensor, codes: Tensor) -> list[Tensor]:
        """Of each part given the parts of `codes` before it, (B, n, ids of the part) float32."""
        states = self.states(h, self.split(codes)).unbind(2)
        return [part.logits(state) for part, state in zip(self.each(), states, strict=True)]

    def losses(self, h: Tensor, codes: Tensor) -> Tensor:
        """Negative log-likelihood of each part, (B, n, G) in nats."""
        parts, heads = self.split(codes), self.each()
        states = self.states(h, parts)
        if all(head is heads[0] for head in heads):  # one product for all
            return heads[0].loss(states.flatten(1, 2), parts.flatten(1, 2)).view_as(parts)
        given = zip(heads, states.unbind(2), parts.unbind(-1), strict=True)
        return torch.stack([head.loss(state, ids) for head, state, ids in given], -1)

    def loss(self, h: Tensor, codes: Tensor, noise: SlotNoise | None = None) -> Tensor:
        """Negative log-likelihood of each position, the sum over its parts: (B, n) in nats."""
        return self.losses(h, codes).sum(-1)

    def guides(self, guide: Guide) -> list[Guide]:
        """The guide of each part."""
        return [guide if ratio == 1 else Further(guide, ratio) for ratio in self.guidance]

    def sample(self, h: Tensor, chance: Chance) -> Draw:
        """Draw codes (B, n, *trailing) from hidden states of all branches (branches * B, n, D)."""
        places, guides = self.places(h.device), self.guides(chance.guide)
        filters = [chance.filters.at(g, self.count) for g in range(self.count)]
        x = self.first(h).flatten(0, 1).unsqueeze(1)  # (R, 1, D)
        size = (len(self.layers), len(x), self.heads, self.count, self.head_dim)
        cache = KVCache(*size, x.dtype, x.device)
        parts, logps, first = list[Tensor](), list[Tensor](), 0
        for g, head in enumerate(self.each()):
            for i, layer in enumerate(self.layers):
                x = layer(x, places[g], i, cache)
            state = self.norm(x).unflatten(0, h.shape[:2]).squeeze(2)
            logits = head.merged(state, guides[g]) / self.temperature[g]  # (B, n, ids)
            first = max(first, g * logits.shape[-1])  # numbers that no part before had
            found, logp = chance.noise.draw(filters[g](logits), g, self.count, first)
            first += logits.shape[-1]
            parts.append(found)
            logps.append(logp)
            if g + 1 < self.count:
                token = self.latest([chance.guide.tile(ids) for ids in parts])
                x = token.flatten(0, 1).unsqueeze(1)
        return Draw(self.join(torch.stack(parts, -1)), torch.stack(logps).sum(0), h)
