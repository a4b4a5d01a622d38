"""Makes tests/ importable (`from builders import ...`) and hypothesis repeatable."""

import signal

import pytest
from hypothesis import settings

settings.register_profile("smalti", deadline=None, derandomize=True)
settings.load_profile("smalti")

# in the background of a script Ctrl-C is ignored, also by all that is started from there
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def float32():
    """One arithmetic on every machine."""
    patch = pytest.MonkeyPatch()
    patch.setattr("smalti.loading.fast_bf16", lambda device: False)
    yield
    patch.undo()
