"""How many slots a pass draws ahead: as many as pay, by the share of guesses that were right."""

from __future__ import annotations

import math
from collections.abc import Sequence

from smalti.sampling.parallel import Parallel

MOST = 32
START = 8
PRICE = 1 / 16
"""What a slot adds to the time of a pass of one slot, where that is not measured."""
MEMORY = 0.9
"""What a pass counts when the next one is counted."""


class Window:
    """The number of slots of each pass: the one asked for, if any.

    A guess is right with probability r if those before it were, so a pass of w slots has
    (1 - r^w) / (1 - r) codes that are final, and takes 1 + price * (w - 1) of the time of one slot;
    the width is the one at which a code takes the least. Both numbers come from the passes so far.
    What is drawn speculatively depends on the width: there it is constant, so that no picture
    depends on others of its batch.
    """

    def __init__(self, parallel: Parallel, total: int) -> None:
        self.constant = parallel.mode == "speculative"
        self.fixed = parallel.window or START * self.constant
        self.most = min(self.fixed or MOST, total)
        self.right = self.wrong = 1.0
        self.timed = parallel.mode == "auto"
        self.seconds = dict[int, float]()
        """The least that a pass of a width took."""
        self.passes = 0

    def width(self, left: int) -> int:
        """Of the next pass, of rows the last of which has `left` slots to go."""
        self.passes += 1
        if self.constant:
            return self.most
        if self.timed and self.passes <= 3:
            return 1  # is timed
        return min(self.fixed or self.best(), self.most, left)

    def best(self) -> int:
        """The width at which a code takes the least time."""
        if self.wrong + self.right == 2:
            return START
        r, price = self.right / (self.right + self.wrong), self.price()
        return max(
            range(1, self.most + 1),
            key=lambda w: (1 - r**w) / (1 - r) / (1 + price * (w - 1)),
        )

    def price(self) -> float:
        """What a slot adds to a pass, of the time of one slot."""
        widest = max(self.seconds, default=1)
        if widest == 1:
            return PRICE
        ratio = self.seconds[widest] / self.seconds[1]
        return max(ratio - 1, 0.0) / (widest - 1)

    def see(self, width: int, advanced: Sequence[int], seconds: float) -> None:
        """Take note of a pass: by how many codes each row that it drew came on."""
        if width > 1:
            self.right = MEMORY * self.right + sum(n - 1 for n in advanced)
            self.wrong = MEMORY * self.wrong + sum(n < width for n in advanced)
        if self.timed and self.passes > 1:  # the first reads the condition too
            self.seconds[width] = min(seconds, self.seconds.get(width, math.inf))
