"""What a draw depends on beside hidden states: guidance, random numbers, filters, a solver."""

from __future__ import annotations

from typing import NamedTuple

from smalti.codes import Guide, Known
from smalti.sampling.filters import Filters, RowFilters
from smalti.sampling.noise import SlotNoise
from smalti.sampling.pruning import Pruning
from smalti.sampling.solvers import Solver


class Chance(NamedTuple):
    """How the codes of one step are drawn, by any model and any head."""

    guide: Guide
    """Copies rows to the branches of guidance, and combines their predictions."""
    noise: SlotNoise
    """Equal numbers draw equal codes."""
    filters: Filters | RowFilters = Filters()
    """Temperature, top-k, top-p: for all rows, or of each row."""
    solver: Solver = Solver()
    """Of continuous codes: how a head gets from noise to a latent."""
    known: Known | None = None
    """Codes of the span that are given, (B, n, *trailing): the loop takes them in place of what is
    drawn, and a model that reads its codes within the step has to as well."""
    pruning: Pruning = Pruning()
    """Of models of scales: what late layers leave out."""
