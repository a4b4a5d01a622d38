from pathlib import Path

import pytest
from golden import folders, load
from mar_head import check_head, golden_head


@pytest.mark.parametrize("folder", folders("mar"))
def test_mar_head(folder: Path):
    config, weights, io = load(folder)
    check_head(golden_head(weights, config), config, io)
