"""What a tokenizer minimises that is also to understand: its losses of pictures, and CLIP's or
SigLIP's.

UniTok (Ma et al. 2025, arXiv:2502.20321), after CLIP (Radford et al. 2021, arXiv:2103.00020);
VILA-U (Wu et al. 2024, arXiv:2409.04429), whose tower is a SigLIP's (Zhai et al. 2023,
arXiv:2303.15343).

Unusual: what is compared with a caption is made of what stands for the codes, so codes that say
nothing of the meaning cost something. The text tower is trained together with the tokenizer, and
left behind: the tokenizer alone is what is saved in the end.

B pictures and captions, F features, T words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.arguments import an
from smalti.config import check
from smalti.nn.cosines import cosines
from smalti.nn.linear import Linear
from smalti.text.byte_words import ByteEncoder, BytesConfig
from smalti.text.encoders import TextEncoder
from smalti.train.base import Batch
from smalti.train.objectives import ReconstructionConfig, ReconstructionObjective
from smalti.train.pairs import LARGEST, gathered, nearest, sigmoid_loss, softmax_loss, together


@dataclass(frozen=True)
class ContrastiveConfig(ReconstructionConfig):
    contrastive: float = 1.0
    """Weight of the contrastive loss between pictures and captions."""
    pairs: Literal["softmax", "sigmoid"] = "softmax"
    """Which it is: CLIP's, in which all captions compete for a picture, or SigLIP's, in which each
    pair is judged alone."""
    text: BytesConfig = field(default_factory=BytesConfig)
    """What reads the captions."""

    def __post_init__(self) -> None:
        check(self, above_zero=("contrastive",))

    def objective(
        self, model: Any, seed: int, steps: int, begun: bool = False
    ) -> ContrastiveObjective:
        """What a tokenizer minimises in so many steps; one that has `begun` knows its codes.

        Raises ValueError for a tokenizer without features of texts, and as `checked` does.
        """
        if not model.understands:
            raise ValueError(
                "a contrastive loss is of tokenizers with features that texts are compared with, "
                "such as UniTok with model.features 256, or VILA-U with model.understands; got "
                f"{an(type(model).__name__)} of none"
            )
        return ContrastiveObjective(model, self.checked(model, steps, begun), seed)


class TextTower(nn.Module):
    """Tokens of captions to features (B, F), the mean over the words of each."""

    def __init__(self, config: BytesConfig, features: int, biased: bool = False) -> None:
        super().__init__()
        self.encoder = ByteEncoder(config)
        self.projection = Linear(config.dim, features, bias=False)
        self.scale = nn.Parameter(torch.tensor(math.log(10.0 if biased else 1 / 0.07)))
        self.bias = nn.Parameter(torch.tensor(-10.0)) if biased else None
        nn.init.normal_(self.projection.weight, std=config.dim**-0.5)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, F), and which captions have words, (B,) bool."""
        words, mask = self.encoder(tokens)  # (B, T, C), (B, T)
        mean = words.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return self.projection(mean), mask.any(1)


class ContrastiveObjective(ReconstructionObjective):
    """Losses of pictures and of the quantizer, and a contrastive one with captions; pictures
    without a caption have no part in it."""

    compares = True

    def __init__(self, model: Any, config: ContrastiveConfig, seed: int = 0) -> None:
        super().__init__(model, config, seed)
        self.weight = config.contrastive
        self.tower = TextTower(config.text, model.understands, config.pairs == "sigmoid")
        self.shown = (*self.shown, "retrieval")

    @property
    def reader(self) -> TextEncoder:
        return self.tower.encoder

    def optimized(self) -> dict[str, nn.Module]:
        return super().optimized() | {"text": self.tower}

    def _beside(self, batch: Batch, latent: Tensor, logs: dict[str, Tensor]) -> dict[str, Tensor]:
        tower = self.tower
        if tower.bias is None:
            with torch.no_grad():
                tower.scale.clamp_(0.0, LARGEST)
        pictures = F.normalize(self.model.features(latent).float(), dim=-1)
        features, given = tower(batch["text_tokens"])
        texts = F.normalize(features.float(), dim=-1)
        pictures, texts, given = gathered(pictures), gathered(texts), together(given)
        loss, found = contrastive_loss(pictures, texts, tower.scale.exp(), given, tower.bias)
        logs["contrastive"], logs["retrieval"] = loss.detach(), found
        return {"text": self.weight * loss}


def contrastive_loss(
    pictures: Tensor, texts: Tensor, scale: Tensor, given: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The mean of both cross-entropies, in nats, of unit features (B, F) of pictures and texts that
    belong together, of the pairs that are `given`, (B,) bool, or with a `bias` of logits what each
    pair loses alone; and the share of pictures whose own text is the nearest. Both are 0 without a
    pair."""
    pictures, texts = pictures[given], texts[given]
    if not len(pictures):
        nothing = (pictures.sum() + texts.sum()) * scale
        return nothing if bias is None else nothing + 0 * bias, scale.new_zeros(())
    logits = scale * cosines(pictures, texts)
    loss = softmax_loss(logits) if bias is None else sigmoid_loss(logits + bias)
    return loss, nearest(logits)
