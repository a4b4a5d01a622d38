"""What `pip install smalti[extra]` brings is used by something, and the Makefile asks for it."""

import json
import re
import shlex
import tomllib
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TOOLS = ("dev", "docs")  # extras of programs, which nothing imports
EXTRAS = {k: v for k, v in PROJECT["optional-dependencies"].items() if k not in TOOLS}
SOURCES = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
THROUGH = {
    "sentencepiece": "transformers",
    "python_multipart": "starlette",
}  # packages that another one imports


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
    assert wanted == {"emoji", "dev", "docs"} <= set(PROJECT["optional-dependencies"])
    (brought,) = [r for r in PROJECT["optional-dependencies"]["dev"] if r.startswith("smalti[")]
    assert "emoji" in brought, "has-dev stands for has-emoji"


# -- what a server needs beyond the core


def brought(requirements: list[str]) -> set[str]:
    """All that requirements bring, by name, as it is installed here."""
    found, todo = set[str](), [Requirement(text) for text in requirements]
    while todo:
        wanted = todo.pop()
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if name in found:
            continue
        found.add(name)
        for text in metadata.requires(name) or []:
            more = Requirement(text)
            extras = wanted.extras | {""}
            if more.marker is None or any(more.marker.evaluate({"extra": e}) for e in extras):
                todo.append(more)
    return found


def test_serving_brings_little():
    """At most 16 packages and 15 MB beside those that smalti needs anyway."""
    pytest.importorskip("fastapi")
    more = brought(EXTRAS["serve"]) - brought(PROJECT["dependencies"])
    files = [file for name in more for file in metadata.files(name) or []]
    size = sum(file.size or 0 for file in files)
    assert 4 <= len(more) <= 16, sorted(more)
    assert 1e6 < size <= 15e6, f"{size / 1e6:.1f} MB"


def test_a_wheel_holds_the_package_and_its_files_alone(tmp_path, monkeypatch):
    """What is no Python file in it is not left out; `integrations` and `deploy` stand beside it."""
    build = pytest.importorskip("hatchling.build")
    monkeypatch.chdir(ROOT)
    wheel = tmp_path / build.build_wheel(str(tmp_path))
    names = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    folder = ROOT / "src"
    kept = [
        p for p in (folder / "smalti").rglob("*") if p.is_file() and "__pycache__" not in p.parts
    ]
    assert names == {path.relative_to(folder).as_posix() for path in kept}
    assert "smalti/serve/app.py" in names and wheel.stat().st_size < 20e6
    assert {"smalti/data/packs/styles-32.parquet", "smalti/data/packs/LICENSE.md"} <= names
    assert all((ROOT / beside).is_dir() for beside in ("integrations", "deploy"))


def test_it_is_cited_as_the_package_is_called():
    told = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert [told[key] for key in ("title", "version", "license", "abstract")] == [
        PROJECT[key] for key in ("name", "version", "license", "description")
    ]
    assert told["authors"] == PROJECT["authors"] and told["cff-version"] == "1.2.0"


# -- the image

DOCKERFILE = ROOT / "deploy" / "Dockerfile"


def steps() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, each with what follows it."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    pairs = (line.partition(" ") for line in text.splitlines() if line.strip())
    return [(name, " ".join(rest.split())) for name, _, rest in pairs]


def of(name: str) -> list[str]:
    return [rest for step, rest in steps() if step == name]


def test_the_image_installs_what_there_is():
    (extras,) = re.findall(r"pip install --no-cache-dir '\.\[([\w,]+)\]'", DOCKERFILE.read_text())
    assert set(extras.split(",")) <= EXTRAS.keys()
    for line in of("COPY"):
        *sources, _ = [word for word in line.split() if not word.startswith("--")]
        assert line.startswith("--from=") or all((ROOT / source).exists() for source in sources)
    kept = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().split()
    assert {"!pyproject.toml", "!README.md", "!LICENSE", "!src"} <= set(kept)
    python = re.findall(r"python:(3\.\d+)-slim", " ".join(of("FROM")))
    least = tuple(map(int, re.findall(r"\d+", PROJECT["requires-python"])))
    assert len(set(python)) == 1 and tuple(map(int, python[0].split("."))) >= least
    assert of("ARG") == ["TORCH=cpu"] and "whl/${TORCH}" in DOCKERFILE.read_text()


def test_the_image_serves_as_nobody_on_its_port():
    names = [name for name, _ in steps()]
    (user,), (port,), (check,) = of("USER"), of("EXPOSE"), of("HEALTHCHECK")
    assert int(user) >= 10_000 and f"--uid {user}" in " ".join(of("RUN"))
    assert names.index("USER") < names.index("ENTRYPOINT") and "USER" not in names[-2:]
    entry, arguments = (json.loads(of(name)[0]) for name in ("ENTRYPOINT", "CMD"))
    assert entry[:2] == ["smalti", "serve"] and entry[entry.index("--port") + 1] == port
    assert f"http://127.0.0.1:{port}/health" in check
    (script,) = re.findall(r"CMD (\[.*\])", check)
    compile(json.loads(script)[2], "HEALTHCHECK", "exec")
    assert "--keys" in arguments, "it listens for others"
    run = re.search(r"docker run (.*?)(?=\n#\n)", DOCKERFILE.read_text(), re.S)
    assert run and {"--read-only", "--tmpfs"} <= set(shlex.split(run[1].replace("\\\n#", "")))
