"""Files of the whole field, told apart by the names of their tensors."""

from pathlib import Path

import pytest
from golden import folders, load

from smalti.interop.kinds import KINDS, prefixes


@pytest.mark.parametrize("folder", folders())
def test_no_file_is_of_two_kinds(folder: Path):
    _, weights, _ = load(folder)
    kinds = [kind for kind in KINDS if prefixes(weights, kind) == [""]]
    assert len({kind.marks for kind in kinds}) <= 1  # projects may share a kind of file
