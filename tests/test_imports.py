"""Imports point down only, and `import smalti` is cheap."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import smalti

ROOT = Path(smalti.__file__).parent

PAGE = Path(__file__).parent.parent / "docs" / "architecture.md"


def layers() -> list[list[str]]:
    """The rooms as the page on architecture draws them, from the top: a room (a module or package
    of smalti) imports rooms of lower layers only. `smalti` is the package itself."""
    line = re.search(r"^ *(__main__ >.*?)(?:\n\n|\n```)", PAGE.read_text(), re.M | re.S)
    assert line, f"{PAGE.name} has the line that begins with __main__ >"
    return [layer.split() for layer in line[1].split(">")]


LAYERS = layers()
APART = {  # loops know protocols, never a system
    "engine": {"models", "tokenizers", "train"},
    "train": {"models"},
    "models": {"engine"},
}
RANK = {name: i for i, layer in enumerate(LAYERS) for name in layer}


def name_of(path: Path) -> str:
    """The dotted name of a file: smalti.nn.rope; a package by its folder."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def part(module: str) -> str:
    """What the layers are made of: `nn` of smalti.nn.rope, `smalti` of the package itself."""
    return [*module.split("."), "smalti"][1]


def imports(module: str, source: str) -> set[str]:
    """The modules of smalti that a source imports anywhere, under TYPE_CHECKING too."""
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                if (base, alias.name) == ("smalti", "__version__"):
                    continue  # a constant, which costs nothing
                whole = f"{base}.{alias.name}"
                found.add(whole if whole in FILES else base)
    return {name for name in found if name.split(".")[0] == "smalti"}


def wrong(module: str, source: str) -> list[str]:
    """The imports of a module that do not point down."""
    mine = part(module)
    return sorted(
        name
        for name in imports(module, source)
        if part(name) != mine
        and (RANK[part(name)] <= RANK[mine] or part(name) in APART.get(mine, set()))
    )


def test_every_room_has_a_layer():
    rooms = [name for layer in LAYERS for name in layer]
    assert sorted(rooms) == sorted({part(module) for module in FILES})
    assert len(rooms) <= 28 and len(LAYERS) <= 12


def test_imports_point_down():
    found = {name: wrong(name, path.read_text(encoding="utf-8")) for name, path in FILES.items()}
    assert {name: upwards for name, upwards in found.items() if upwards} == {}


@pytest.mark.parametrize(
    ("module", "source", "target"),
    [
        ("smalti.nn.rope", "from smalti.models import llamagen", "smalti.models.llamagen"),
        ("smalti.nn.rope", "from smalti.models.llamagen import tiny", "smalti.models.llamagen"),
        ("smalti.nn.rope", "import smalti.models.llamagen as m", "smalti.models.llamagen"),
        ("smalti.nn.rope", "from ..models import llamagen", "smalti.models.llamagen"),
        ("smalti.nn.rope", "def f():\n    from smalti import modules", "smalti.modules"),
        ("smalti.nn.rope", "if TYPE_CHECKING:\n    from smalti import load", "smalti"),
        ("smalti.models", "from ..engine import causal", "smalti.engine.causal"),
        (
            "smalti.engine.causal",
            "from smalti.models.llamagen import tiny",
            "smalti.models.llamagen",
        ),
        ("smalti.engine.causal", "from smalti.train import ema", "smalti.train.ema"),
        ("smalti.models.llamagen", "from smalti.engine import causal", "smalti.engine.causal"),
    ],
)
def test_the_check_finds(module, source, target):
    assert wrong(module, source) == [target]


def test_the_check_allows():
    source = "import torch\nfrom .linear import Linear\nfrom smalti.codes import Cond\n"
    assert imports("smalti.nn.rope", source) == {"smalti.nn.linear", "smalti.codes"}
    assert wrong("smalti.nn.rope", source) == []


def test_importing_smalti_does_not_import_torch():
    script = "import sys, smalti; print(smalti.__version__, 'torch' in sys.modules)"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == [smalti.__version__, "False"]
