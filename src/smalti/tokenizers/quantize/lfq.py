"""Look-up-free quantization: a code is the signs of its latent, and there is no table.

Yu et al. 2023, "Language Model Beats Diffusion" (MAGVIT-v2, arXiv:2310.05737), as Open-MAGVIT2 (Luo
et al. 2024, arXiv:2409.04410) and MaskBit (Weber et al. 2024, arXiv:2409.16211) have it.

Unusual: the entropy loss compares each latent with all 2^K codes, but no tensor has a number for
each latent and each code. The softmax over codes is a product over bits. So the entropy of one
position is a sum over its bits, and the mean of all positions over 2^K codes is one product of two
matrices, of the first and of the last K/2 bits. The slow way is in `tests/tokenizers/test_lfq.py`.

Letters: B images, h, w code grid, K bits, P = B * h * w positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.quantize.vq import Quantized

TINY = 1e-5
"""Below this, logarithms of probabilities are not taken, as upstream."""


class LookupFree(nn.Module):
    """Latents (B, K, h, w) to codes (B, h, w, K) in {0, 1}: a bit is 1 where its latent is above 0.

    The entropy loss is the mean entropy of each position's soft code less `rate` times the entropy
    of their mean, in nats, of a softmax of 2 z.c / `temperature` over all codes c of signs. Codes
    of more than `group` bits are cut into groups of at most so many, whose entropies are added:
    the mean has 2^group entries. Upstream adds `TINY` to probabilities before their logarithm, or
    raises lower ones to it (`clamped`), in the mean alone here.
    """

    def __init__(
        self,
        bits: int,
        group: int = 18,
        temperature: float = 0.01,
        rate: float = 1.0,
        clamped: bool = False,
    ) -> None:
        super().__init__()
        if bits < 1 or group < 1:
            raise ValueError(f"bits and group must be at least 1, got {bits}, {group}")
        if not 0 < temperature < float("inf") or not 0 <= rate < float("inf"):
            raise ValueError(
                f"temperature must be a positive number and rate 0 or more, got {temperature}, "
                f"{rate}"
            )
        self.bits, self.group, self.temperature = bits, group, temperature
        self.rate, self.clamped = rate, clamped

    def encode(self, z: Tensor) -> Tensor:
        """Codes (B, h, w, K) of latents (B, K, h, w)."""
        return (z.detach() > 0).long().movedim(1, -1).contiguous()

    def decode(self, codes: Tensor) -> Tensor:
        """Latents (B, K, h, w) of -1 and 1, float32, of codes (B, h, w, K)."""
        return (2 * codes - 1).float().movedim(-1, 1).contiguous()

    def entropies(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The mean entropy of each position's soft code, and the entropy of their mean."""
        with torch.autocast(z.device.type, enabled=False):
            rows = z.float().movedim(1, -1).flatten(0, -2)  # (P, K)
            each, mean = rows.new_zeros(()), rows.new_zeros(())
            for part in rows.split(self.group, -1):
                each = each + bit_entropy(4 / self.temperature * part).sum(-1).mean()
                share = mean_code(part, self.temperature)  # (2^group,)
                logs = (share.clamp(min=TINY) if self.clamped else share + TINY).log()
                mean = mean - (share * logs).sum()
        return each, mean

    def forward(self, z: Tensor, entropy: bool = False) -> Quantized:
        """Quantize for training; `entropy` computes that loss too."""
        with torch.autocast(z.device.type, enabled=False):
            z, codes = z.float(), self.encode(z)
            signs = self.decode(codes)
            losses = {"commitment": F.mse_loss(z, signs)}
            if entropy:
                each, mean = self.entropies(z)
                losses["entropy"] = each - self.rate * mean
        return Quantized(z + (signs - z).detach(), codes, losses)


def bit_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of bits with these logits, of any size without cancellation."""
    far = logits.abs()
    return F.softplus(-far) + far * (-far).sigmoid()


def mean_code(rows: Tensor, temperature: float) -> Tensor:
    """The mean over rows (P, K) of the soft assignment to 2^K codes, (2^K,), in which the last bit
    changes fastest."""
    half = rows.shape[1] // 2
    first, last = (soft_codes(part, temperature) for part in rows.tensor_split((half,), 1))
    return (first.T @ last).flatten() / len(rows)


def soft_codes(rows: Tensor, temperature: float) -> Tensor:
    """The soft assignment of each row (P, k) to 2^k codes, (P, 2^k)."""
    bits = rows.shape[1]
    places = torch.arange(bits - 1, -1, -1, device=rows.device)
    codes = torch.arange(2**bits, device=rows.device)[:, None] >> places & 1  # (2^k, k)
    return (rows @ (2.0 * codes.to(rows.dtype) - 1).T * (2 / temperature)).softmax(-1)
