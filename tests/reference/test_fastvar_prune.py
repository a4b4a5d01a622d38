"""Which positions a late scale keeps, and what stands in place of the others, against FastVAR."""

from pathlib import Path

import pytest
from golden import folders, load

from smalti.models.pruned import farthest, restored, taken


@pytest.mark.parametrize("folder", folders("fastvar_prune"))
def test_fastvar_prune(folder: Path):
    config, _, io = load(folder)
    sizes = config["constructor"]
    kept = farthest(io["hidden"], sizes["keep"])  # (B, m)
    io.check("kept_index", kept)
    rows = taken(io["other"], kept)
    io.check("kept", rows)
    grids = tuple(sizes["cached"]), (sizes["H"], sizes["W"])
    io.check("restored", restored(2 * rows, kept, io["cache"], *grids))
    io.done()
