"""Makes tests/ importable (`from builders import ...`) and hypothesis repeatable."""

from hypothesis import settings

settings.register_profile("smalti", deadline=None, derandomize=True)
settings.load_profile("smalti")
