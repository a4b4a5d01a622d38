"""What the projects of TencentARC/SEED-Voken have in common: files, and sizes of Llamas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from smalti.interop.pickles import Checkpoint
from smalti.interop.saved import Dtype
from smalti.interop.tensor_shapes import ffn_settings, shape


@dataclass(frozen=True)
class VokenFiles:
    """A tokenizer and a generator as a pipeline; without --model, the tokenizer alone."""

    tokenizer: Path
    """Checkpoint of the tokenizer, or of a generator, which holds it too."""
    model: Path | None = None
    """Checkpoint of the generator."""
    size: str = "256"
    """Pixels of an image, 256 or height x width, 256x384."""
    heads: int | None = None
    """Attention heads; needed for sizes that were never published."""
    weights: Literal["ema", "model"] | None = None
    """The moving average, or the weights as trained; of the generator where there is one, else of
    the tokenizer; default: the average where the file has one, as a pipeline's tokenizer is."""
    dtype: Dtype = "stored"
    """Of the generator's weights in the pipeline."""


class Published(NamedTuple):
    """A project's name, and its published sizes of models by their names."""

    project: str
    sizes: Mapping[str, dict[str, Any]]

    def name(self, layers: int, dim: int) -> str:
        """The name of a published size; "" if there is none."""
        found = [n for n, s in self.sizes.items() if (s["layers"], s["dim"]) == (layers, dim)]
        return found[0] if found else ""

    def llama(
        self, checkpoint: Checkpoint, blocks: str, layers: int, dim: int, heads: int | None
    ) -> dict[str, Any]:
        """Sizes of a Llama by the names of its configuration, of names of layers that begin with
        `blocks`. Raises ValueError if neither `heads` nor a published size tells the heads, or if
        feed-forwards have no width of a Llama's."""
        size = self.name(layers, dim)
        if not heads and not size:
            raise ValueError(
                f"{checkpoint.path}: no published model has {layers} layers of width {dim}; "
                "give --heads"
            )
        width = shape(checkpoint, f"{blocks}0.feed_forward.w1.weight", 2, self.project)[0]
        multiple_of, multiplier = ffn_settings(dim, width)
        if multiplier != 1:
            raise ValueError(
                f"{checkpoint.path}: feed-forwards of width {dim} are no {self.project}'s, "
                f"got {width}"
            )
        found = {"layers": layers, "dim": dim, "multiple_of": multiple_of}
        return found | {"heads": heads or self.sizes[size]["heads"]}
