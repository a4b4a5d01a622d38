"""Makes tests/ importable (`from builders import ...`) and hypothesis repeatable."""

import pytest
from hypothesis import settings

settings.register_profile("smalti", deadline=None, derandomize=True)
settings.load_profile("smalti")


@pytest.fixture(scope="module")
def float32():
    """One arithmetic on every machine."""
    patch = pytest.MonkeyPatch()
    patch.setattr("smalti.loading.fast_bf16", lambda device: False)
    yield
    patch.undo()
