"""Hidden states of a language model as features of a text: frozen, as HART reads Qwen2-VL's.

Tang et al. 2024 (arXiv:2410.10812); Qwen2-VL: Wang et al. 2024 (arXiv:2409.12191). Unusual: texts
are padded on the right, and padding has features too, as the released weights expect; what an
instruction before the text says is read, but its own features are cut off. The weights are no part
of this module: they come from the hub or a folder when the first text is read.
B texts, T tokens, C width, S tokens of the instruction.
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
from smalti.text.encoders import PADDING, TextConfig
from smalti.text.pretrained import Parts, PretrainedEncoder, loading


@dataclass(frozen=True)
class LanguageModelConfig(TextConfig):
    model: str = "mit-han-lab/Qwen2-VL-1.5B-Instruct"
    """Hub id or folder of a language model with its tokenizer."""
    length: int = 300
    """T, tokens that are read."""
    dim: int = 1536
    """C, the width of that model."""
    instruction: str = ""
    """What stands before every text."""

    def __post_init__(self) -> None:
        check(self, positive=("length", "dim"))


class LanguageModel(PretrainedEncoder):
    """Tokens of texts to hidden states of a frozen model. It has no parameters of its own.

    Raises ValueError at the first text if there is no such model, or if it has another width.
    """

    config: LanguageModelConfig

    def load(self) -> Parts:
        return load(self.config)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Tokens (B, T) int64, right padded with -1."""
        length = self.config.length
        rows = [row[:length] for row in self._ids(texts)]
        return torch.tensor([list(row) + [PADDING] * (length - len(row)) for row in rows])

    def count(self, text: str) -> int:
        return len(self._ids([text])[0])

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self.parts.tokenizer(list(texts), verbose=False)["input_ids"]

    @torch.no_grad()
    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T) to features (B, T, C), of padding too, and their mask (B, T)."""
        mask, device = tokens >= 0, tokens.device
        tokenizer, model = self.parts
        model = model.to(device, torch.bfloat16 if fast_bf16(device) else torch.float32)
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        before = self._ids([self.config.instruction])[0] if self.config.instruction else []
        begin = torch.tensor([before], dtype=torch.int64, device=device).expand(len(tokens), -1)
        ids = torch.cat((begin, tokens.masked_fill(~mask, padding)), 1)  # (B, S + T)
        seen = torch.cat((torch.ones_like(begin), mask.long()), 1)
        found = model(input_ids=ids, attention_mask=seen)
        return found.last_hidden_state[:, len(before) :].float(), mask


def load(config: LanguageModelConfig) -> Parts:
    """Tokenizer and model from the hub or a folder. Raises ValueError if there are none."""
    with loading(config.model, "language model") as transformers:
        where = str(expand(config.model))
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(where)
        model = transformers.AutoModel.from_pretrained(where)
        shape = model.config.get_text_config()
    if shape.hidden_size != config.dim:
        raise ValueError(
            f"{config.model} has features of width {shape.hidden_size}, got dim {config.dim}"
        )
    return Parts(tokenizer, model.eval().requires_grad_(False))


def tiny() -> LanguageModelConfig:
    """A model of random weights that the hub keeps for tests."""
    return LanguageModelConfig("hf-internal-testing/tiny-random-Qwen2Model", length=12, dim=32)
