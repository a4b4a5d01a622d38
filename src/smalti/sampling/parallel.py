"""Whether and how several codes are drawn in one pass, of models that draw them one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from smalti.config import called, check

Mode = Literal["off", "exact", "speculative", "auto"]


@dataclass(frozen=True)
class Parallel:
    """How a pass draws ahead. Raises ValueError for a value out of range."""

    mode: Mode = called("parallel", "off")
    """Models that draw one code after another: draw several in a pass. exact: the picture is the
    one that off draws; speculative: another one, as likely, in fewer passes; auto: exact where
    that is found to be faster, in float32."""
    window: int = 0
    """With parallel: codes of a pass; 0 follows what share of them was right."""

    def __post_init__(self) -> None:
        check(self, counts=("window",))
