"""How many slots a pass draws ahead: as many as pay, by how many codes the passes before it had."""

from __future__ import annotations

import math
from collections.abc import Sequence

from smalti.sampling.parallel import Parallel

LEAST, START, MOST = 2, 8, 32
FURTHER = 4
"""Slots of a pass for each code that is final behind it: drawn so often before their turn comes,
guesses are as good as they get, and more slots only cost (`benchmarks/parallel.py`)."""
TRIED = 8
"""Passes before `auto` may go back to one slot; the first reads the condition, two have one."""
MEMORY = 0.8
"""What a pass counts when the next one is counted."""


class Window:
    """The number of slots of each pass: the one asked for, if any; else `FURTHER` times as many as
    the codes that the passes so far had, of all rows in the mean.

    What is drawn speculatively depends on the width: there it is constant, so that no picture
    depends on others of its batch.
    """

    def __init__(self, parallel: Parallel, total: int) -> None:
        self.constant = parallel.mode == "speculative"
        self.fixed = parallel.window or START * self.constant
        self.most = min(self.fixed or MOST, total)
        self.timed = parallel.mode == "auto"
        self.came = START / FURTHER
        """Codes that a pass has, of a row."""
        self.seconds = dict[int, float]()
        """The least that a pass of a width took."""
        self.passes = 0

    def width(self, left: int) -> int:
        """Of the next pass, of rows the last of which has `left` slots to go."""
        self.passes += 1
        if self.constant:
            return self.most
        width = self.fixed or max(LEAST, round(FURTHER * self.came))
        if self.timed and (self.passes <= 3 or not self.pays(width)):
            return 1
        return min(width, self.most, left)

    def pays(self, width: int) -> bool:
        """Whether codes of a pass of this width took less time than as many passes of one slot; so
        it is said as long as it was not tried."""
        if self.passes <= TRIED or width not in self.seconds:
            return True
        return self.seconds[width] < self.came * self.seconds[1]

    def see(self, width: int, came: Sequence[int], seconds: float) -> None:
        """Take note of a pass: by how many codes the rows came on that had as many to go."""
        if width > 1 and came:
            self.came = MEMORY * self.came + (1 - MEMORY) * sum(came) / len(came)
        if self.timed and self.passes > 1:
            self.seconds[width] = min(seconds, self.seconds.get(width, math.inf))
