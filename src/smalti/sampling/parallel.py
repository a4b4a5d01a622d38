"""Whether and how several codes are drawn in one pass, of models that draw them one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from smalti.config import called, check

Mode = Literal["off", "exact", "speculative", "auto", "zipar"]


@dataclass(frozen=True)
class Parallel:
    """How a pass draws ahead. Raises ValueError for a value out of range."""

    mode: Mode = called("parallel", "off")
    """Models that draw one code after another: draw several in a pass. exact: the picture is the
    one that off draws; speculative: another one, as likely, in fewer passes; auto: exact for one
    picture at a time in float32, as long as that is faster; zipar: a row begins before the one
    above it is drawn, which is faster and not exact."""
    window: int = 0
    """With parallel: codes of a pass; 0 follows what share of them was right. With zipar: codes of
    a row that are drawn before the next one begins; 0 is a third of a row, at least 2."""

    def __post_init__(self) -> None:
        check(self, counts=("window",))
