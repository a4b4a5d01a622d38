"""What late layers leave out of late scales: faster, and not exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smalti.config import called, check


@dataclass(frozen=True)
class Pruning:
    """Token pruning of models of scales, as FastVAR has it (Guo et al. 2025, arXiv:2503.23367).
    Raises ValueError for a share out of range."""

    prune: tuple[float, ...] = ()
    """Models of scales: the share of positions that late layers leave out of each of the last
    scales, such as 0.4 0.5 of the last two, which is faster and not exact; none: they leave out
    nothing."""
    layers: float = called("prune_layers", 0.5)
    """With prune: the share of the layers that do so, the last ones."""

    def __post_init__(self) -> None:
        check(self, "prune_", shares=("layers",))
        try:
            object.__setattr__(self, "prune", tuple(float(share) for share in self.prune))
        except (TypeError, ValueError):
            raise ValueError(f"prune must be numbers in [0, 1), got {self.prune!r}") from None
        if not all(0 <= share < 1 for share in self.prune):
            raise ValueError(f"prune must be numbers in [0, 1), got {self.prune}")

    def first(self, layers: int) -> int:
        """Of so many layers, the first that leaves positions out."""
        return layers - round(self.layers * layers)

    def kept(self, sizes: Sequence[int]) -> list[int]:
        """How many positions late layers compute of each scale, of so many positions each."""
        shares = [0.0] * (len(sizes) - len(self.prune)) + list(self.prune)
        return [n - int(n * share) for n, share in zip(sizes, shares, strict=True)]

    def require(self, scales: int) -> None:
        """Raise ValueError unless there are more scales than are pruned: what is left out of them
        is taken from the one before."""
        if len(self.prune) >= max(scales, 1):
            raise ValueError(
                f"prune must be shares of at most {scales - 1} of {scales} scales, got {self.prune}"
            )
