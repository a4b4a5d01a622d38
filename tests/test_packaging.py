"""What `pip install smalti[extra]` brings is used by something, and the Makefile asks for it."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {k: v for k, v in PROJECT["optional-dependencies"].items() if k != "dev"}
SOURCES = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
THROUGH = {"sentencepiece": "transformers"}  # packages that another one imports


def package(requirement: str) -> str:
    """The name of a requirement, as it is imported."""
    return re.split(r"[^\w.-]", requirement)[0].replace("-", "_")


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_is_imported_somewhere(extra):
    for requirement in EXTRAS[extra]:
        name = THROUGH.get(package(requirement), package(requirement))
        imported = rf"(?:import|from) [\w.]*{name}|import_module\(\"{name}"
        assert re.search(imported, SOURCES), f"nothing imports {name} of smalti[{extra}]"


def test_make_installs_an_extra_for_each_of_its_targets():
    wanted = set(re.findall(r"has-(\w+)", (ROOT / "Makefile").read_text()))
    assert wanted == {"emoji", "dev"} <= set(PROJECT["optional-dependencies"])
    (brought,) = [r for r in PROJECT["optional-dependencies"]["dev"] if r.startswith("smalti[")]
    assert "emoji" in brought, "has-dev stands for has-emoji"
