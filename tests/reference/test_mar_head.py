from pathlib import Path

import pytest
from golden import float32, folders, load
from mar_head import check_head, golden_head


@pytest.mark.parametrize("folder", folders("mar"))
def test_mar_head(folder: Path):
    config, weights, io = load(folder)
    check_head(golden_head(float32(weights), config), config, io)
