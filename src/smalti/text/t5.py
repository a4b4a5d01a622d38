"""The encoder of a T5 as LlamaGen uses it: frozen, features of 120 tokens, left padded.

Raffel et al. 2019 (arXiv:1910.10683); flan-t5: Chung et al. 2022 (arXiv:2210.11416).
Unusual: the weights are no part of this module. They come from the hub or a folder when the first
text is read, so a pipeline stores only which ones. T5 knows relative positions alone, so texts are
padded on the left at once, where upstream pads on the right and rotates the result.
B texts, T tokens, C width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smalti.config import check
from smalti.devices.named import fast_bf16
from smalti.files import expand
from smalti.text.clean import clean
from smalti.text.encoders import PADDING, TextConfig
from smalti.text.pretrained import Parts, PretrainedEncoder, loading


@dataclass(frozen=True)
class T5Config(TextConfig):
    model: str = "google/flan-t5-xl"
    """Hub id or folder of a T5 with its tokenizer."""
    length: int = 120
    """T, tokens that are read, the end mark among them."""
    dim: int = 2048
    """C, the width of that T5."""
    clean: bool = False
    """Clean captions as upstream's option does, which also puts them into lower case."""

    def __post_init__(self) -> None:
        check(self, positive=("length", "dim"))


class T5(PretrainedEncoder):
    """Tokens of texts to features of a frozen T5. It has no parameters of its own.

    Raises ValueError at the first text if there is no such T5, or if it has another width.
    """

    config: T5Config

    def load(self) -> Parts:
        return load(self.config)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Tokens (B, T) int64 with the end mark, left padded with -1."""
        length = self.config.length
        rows = self._ids(texts, truncation=True, max_length=length)
        return torch.tensor([[PADDING] * (length - len(row)) + list(row) for row in rows])

    def count(self, text: str) -> int:
        return len(self._ids([text])[0])

    def _ids(self, texts: Sequence[str], **options: Any) -> list[list[int]]:
        cleaned = [clean(text) if self.config.clean else text for text in texts]
        return self.parts.tokenizer(cleaned, verbose=False, **options)["input_ids"]

    @torch.no_grad()
    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T) to features (B, T, C), zeros at padding, and their mask (B, T)."""
        mask, device = tokens >= 0, tokens.device
        model = self.parts.model.to(device, torch.bfloat16 if fast_bf16(device) else torch.float32)
        found = model(input_ids=tokens.clamp(min=0), attention_mask=mask.long())
        return found.last_hidden_state * mask[..., None], mask


def config_of(model: str, clean: bool = False) -> T5Config:
    """The configuration of a T5: t5 for flan-t5-xl, else a hub id or folder.

    Raises ValueError if there is none.
    """
    if model == "t5":
        return T5Config(clean=clean)
    with loading(model) as transformers:
        found = transformers.AutoConfig.from_pretrained(str(expand(model)))
        return T5Config(model, dim=found.d_model, clean=clean)


def load(config: T5Config) -> Parts:
    """Tokenizer and encoder of a T5 from the hub or a folder."""
    with loading(config.model) as transformers:
        where = str(expand(config.model))
        tokenizer = transformers.AutoTokenizer.from_pretrained(where)
        model = transformers.T5EncoderModel.from_pretrained(where)
    if model.config.d_model != config.dim:
        raise ValueError(
            f"{config.model} has features of width {model.config.d_model}, got dim {config.dim}"
        )
    return Parts(tokenizer, model.eval().requires_grad_(False))


def tiny() -> T5Config:
    """A T5 of random weights that the hub keeps for tests."""
    return T5Config(model="hf-internal-testing/tiny-random-t5", length=12, dim=32)
