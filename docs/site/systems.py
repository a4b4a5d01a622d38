"""Pages of the site that are generated: one for each system and the list of them.

A system is a file of `smalti.recipes`. What its page says is read off its recipes, the
configurations and files of its models, the projects that convert its weights, docs/models.md and
the results of the comparison, so that a page cannot say what is no longer so.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from smalti.cli.catalogue import SMALL
from smalti.cli.listing import counted
from smalti.cli.options import field_docs
from smalti.config import Entry
from smalti.interop.listing import recipe_facts
from smalti.interop.project import Project
from smalti.interop.projects import PROJECTS
from smalti.modules import LANGUAGES, MODELS, TOKENIZERS, TOWERS, UNIFIED
from smalti.recipes import DEMOS, FILES, RECIPES

ROOT = Path(__file__).parents[2]
GENERATORS = MODELS | UNIFIED
KNOWN = GENERATORS | TOWERS | LANGUAGES | TOKENIZERS
RESULTS = ROOT / "benchmarks" / "results"
COMPARISON = max(RESULTS.glob("????-??-??-comparison.jsonl"))
MEASURED = {
    "parameters": "parameters",
    "steps": "training steps",
    "codes": "codes of a picture",
    "bits_per_image": "held-out bits per picture",
    "diffusion_loss": "held-out diffusion loss",
    "psnr": "held-out PSNR of the tokenizer, dB",
    "passes": "forward passes to draw a picture",
    "seconds_1": "seconds to draw a picture, one at a time",
    "seconds_64": "seconds to draw a picture, 64 at a time",
}
"""Fields of the comparison, and what they are."""


DRAWN = {
    "text": ("emoji-t2i.png", "`emoji_t2i`", "docs/text-to-image.md"),
    "starter": ("starter.png", "`emoji64`", "docs/starter.md"),
    "chameleon": (
        "unified-edits.png",
        "`shapes_chameleon`, asked to change a picture",
        "docs/unified.md",
    ),
}
"""Pictures of systems that the comparison has not, what drew them, and the page that tells more."""


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; a bar or a line's end in a cell would end the cell."""
    lines = [head, ["---"] * len(head), *rows]
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def block(text: str, language: str = "bash") -> str:
    return f"```{language}\n{text.strip()}\n```"


def about(thing: Any) -> str:
    """The docstring of a module, a class or a function, without what its lines were indented."""
    return inspect.cleandoc(thing.__doc__ or "")


# -- what belongs to a system


def parts(name: str) -> dict[str, Entry]:
    """The modules of a file of recipes: those that they train, those that are converted, and what
    stands in their files."""
    both = [part for p in projects(name).values() for part in (p.model, p.tokenizer) if part]
    modules = [*_trained(name), *(part.module for part in both)]
    files = {item.config.__module__ for item in KNOWN.values() if item.module in modules}
    return {kind: item for kind, item in KNOWN.items() if item.config.__module__ in files}


@functools.cache
def _trained(name: str) -> list[Any]:
    """The modules that the recipes of a file train."""
    configs = {type(model) for model in _models(name)}
    return [item.module for item in KNOWN.values() if item.config in configs]


@functools.cache
def _models(name: str) -> list[Any]:
    made = (recipe() for recipe in recipes(name).values())
    return [recipe.model for recipe in made if is_dataclass(getattr(recipe, "model", None))]


def recipes(name: str) -> dict[str, Any]:
    """The recipes of a file, by name."""
    return {n: r for n, r in RECIPES.items() if r.__module__ == FILES[name].__name__}


def projects(name: str) -> dict[str, Project]:
    """The projects whose files become models of these recipes."""
    return {key: project for key, project in PROJECTS.items() if name in _homes(key)}


@functools.cache
def _homes(key: str) -> list[str]:
    """The files of recipes that a project belongs to: that of its name, or those that train most of
    what it releases."""
    project, named = PROJECTS[key], key.replace("-", "_")
    modules = [part.module for part in (project.model, project.tokenizer) if part]
    weights = {
        file: sum(2 ** (module is modules[0]) for module in modules if module in _trained(file))
        for file in FILES
    }
    best = [file for file, weight in weights.items() if weight == max(weights.values())]
    return [named] if named in FILES else best


def title(name: str) -> str:
    """What a system is called: how the docstring of its recipes begins."""
    return re.split(r" as | in its| \(|, |: |\.", about(FILES[name]))[0]


# -- the page


def page(name: str) -> str:
    """The page of a system."""
    entries = parts(name)
    sections = [f"# {title(name)}", *_pictures(name)]
    if name in DEMOS:
        sections += [f"Unusual about it: {DEMOS[name].what}. It learns {DEMOS[name].predicts}."]
    sections += [text for kind, item in entries.items() for text in _what(kind, item)]
    sections += ["## Sizes and training", _recipes(name), *_numbers(name), *_convert(name)]
    sections += [_use(name), *(_settings(kind, item) for kind, item in entries.items())]
    more = "[all systems](../docs/models.md), [the comparison](../docs/comparison.md)"
    return "\n\n".join([*sections, f"More: {more}, [the numerics](../docs/numerics.md)."]) + "\n"


def _pictures(name: str) -> Iterator[str]:
    picture = ROOT / "docs" / f"comparison-{name}.png"
    if picture.is_file():
        yield f"![pictures drawn by {title(name)}](../docs/{picture.name})"
        yield "Drawn by the small recipe from emoji of 32 pixels, a class in a column."
    elif name in DRAWN:
        file, what, more = DRAWN[name]
        yield f"![pictures drawn by {title(name)}](../docs/{file})"
        yield f"Drawn by {what}: [how, and how well](../{more})."


def _what(kind: str, item: Entry) -> Iterator[str]:
    """What a module is: the first words of its file, and its row in docs/models.md."""
    module = inspect.getmodule(item.config)
    assert isinstance(module, ModuleType)
    word = "Tokenizer" if kind in TOKENIZERS else "Model"
    yield f"## {word} `{kind}`"
    yield about(module)
    head, rows = status(kind, module)
    if rows:
        yield table(head, rows)


def status(kind: str, module: ModuleType) -> tuple[list[str], list[list[str]]]:
    """The rows of docs/models.md about a module, a generator by its name and a tokenizer by its
    file, and the head of that table."""
    lines = (ROOT / "docs" / "models.md").read_text(encoding="utf-8").splitlines()
    cells = [[c.strip() for c in line[1:-1].split("|")] for line in lines if line[:1] == "|"]
    file = module.__name__.removeprefix("smalti.").replace(".", "/") + ".py"
    column, mark = (1, f"`{file}`") if kind not in GENERATORS else (2, f"`{kind}`")
    first = {1: "file", 2: "model and order"}[column]
    heads = [line for line in cells if len(line) > column and line[column] == first]
    rows = [line for line in cells if len(line) in (4, 6) and mark in line[column]]
    return (next((h for h in heads if rows and len(h) == len(rows[0])), []), rows)


def _recipes(name: str) -> str:
    """Every recipe: what it says of itself, what its model has that others have not, and how it
    is trained."""
    listed = recipes(name)
    small = [n for n in listed if n.startswith(SMALL)]
    rows = [
        [f"`{n}`", _first(recipe), *_known(n), *_work(recipe())] for n, recipe in listed.items()
    ]
    head = ["recipe", "what it is", "parameters", "published FID", "steps", "batch"]
    text = [table(head, rows)]
    if name in DEMOS:
        text += ["The small ones, with a tokenizer, pictures and a report:"]
        text += [block(f"smalti demo --system {name} --out demo-{name}")]
    commands = _train(name, small or list(listed))
    return "\n\n".join([*text, "One by one:", block("\n".join(commands))])


def _train(name: str, wanted: list[str]) -> list[str]:
    """The commands that train some recipes, each once."""
    listed = recipes(name)
    return list(dict.fromkeys(c for n in wanted for c in _commands(n, listed[n])))


def _first(recipe: Any) -> str:
    return about(recipe).partition("\n\n")[0]


def _known(recipe: str) -> list[str]:
    """How many parameters a recipe's model has, and the FID that was published of it."""
    facts = recipe_facts()[recipe]
    fid, on = facts.get("fid"), facts.get("fid_on")
    where = f" ({on})" if on else ""
    return [counted(facts["parameters"] or None), "" if fid is None else f"{fid:g}{where}"]


def _work(recipe: Any) -> list[str]:
    train = getattr(recipe, "train", None)
    return ["", ""] if train is None else [f"{train.steps:,}", f"{train.batch:,}"]


def _commands(name: str, recipe: Any) -> list[str]:
    """The commands in a recipe's docstring; the shortest one where there is none."""
    text = re.sub(r"\\\n\s*", "", about(recipe))
    found = re.findall(r"(?m)^\s*((?:smalti|torchrun) .*)$", text)
    return found or [f"smalti train {name} --out runs/{name}"]


def _numbers(name: str) -> Iterator[str]:
    """What the comparison measured."""
    lines = [json.loads(line) for line in COMPARISON.read_text(encoding="utf-8").splitlines()]
    facts = next((line for line in lines if line.get("case") == name), None)
    if facts is not None:
        rows = [[what, _shown(facts[key])] for key, what in MEASURED.items() if facts.get(key)]
        yield "## Numbers"
        yield (
            f"The small recipe on emoji of 32 pixels, {facts['hardware']}, {facts['threads']} "
            f"threads, commit {facts['commit']}. What they mean and what they do not: [the "
            "comparison](../docs/comparison.md)."
        )
        yield table(["measured", ""], rows)


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _convert(name: str) -> Iterator[str]:
    """How released weights become pipelines."""
    found = projects(name)
    if not found:
        return
    yield "## Released weights"
    for key, project in found.items():
        yield f"{about(project.options).partition(chr(10))[0].rstrip('.')}:"
        files = " ".join(f"--{f} FILE" for f in project.files if project.model or f != "model")
        yield block(f"smalti convert {key} {files} --out {key}")
        yield f"Every option: [smalti convert](../commands/convert.md#smalti-convert-{key})."
        published = [f"- `{repo}/{f}`" for repo, r in project.repositories.items() for f in _of(r)]
        if published:
            yield "On the hub, of which `smalti sample` and `--tokenizer` take the name as well:"
            yield "\n".join(published)


def _of(repository: Any) -> tuple[str, ...]:
    here = () if repository.home else repository.tokenizers
    return (*here, *repository.models)


def _use(name: str) -> str:
    """How to use what the last of the commands above leaves."""
    kinds = parts(name).keys()
    small = [n for n in recipes(name) if n.startswith(SMALL)]
    runs = re.findall(r"--out (\S+)", "\n".join(_train(name, small or list(recipes(name)))))
    reads_alone = any(p.model and not p.tokenizer for p in projects(name).values())
    pipe, draws = f"{runs[-1]}/pipeline", bool(kinds & GENERATORS.keys()) and not reads_alone
    lines = [f"smalti info {pipe if draws else runs[-1]}"]
    if kinds & UNIFIED.keys():
        lines = [f'smalti sample {pipe} --text "..." --n 4 --out drawn.png'] if draws else []
        lines += [f'smalti ask {pipe} "..." --image a.png', f"smalti caption {pipe} pictures"]
    elif draws:
        lines += [f"smalti sample {pipe} --n 16 --out drawn.png", f"smalti eval {pipe}"]
        lines += [f"smalti edit {pipe} --image a.png --mask mask.png --out b.png"]
    return f"## Use\n\n{block(chr(10).join(lines))}"


def _settings(kind: str, item: Entry) -> str:
    """The configuration of a module, field by field."""
    docs = field_docs(item.config)
    rows = [[f"`{f.name}`", f"`{_default(f)}`", docs.get(f.name, "")] for f in fields(item.config)]
    return f"## Settings of `{kind}`\n\n{table(['--model.', 'default', 'what it is'], rows)}"


def _default(field: Any) -> str:
    if isinstance(field.default, int | float | str | bool | tuple | None):
        return repr(field.default)
    return "of its own"


# -- all of them


def index() -> str:
    """The list of systems."""
    rows = [
        [
            f"[{title(name)}]({name}.md)",
            ", ".join(f"`{k}`" for k in parts(name) if k not in TOKENIZERS),
            ", ".join(f"`{k}`" for k in parts(name) if k in TOKENIZERS),
            ", ".join(f"`{k}`" for k in projects(name)),
            str(len(recipes(name))),
        ]
        for name in FILES
    ]
    head = ["system", "models", "tokenizers", "smalti convert", "recipes"]
    text = "A page for each: what it is, sizes, numbers, how to train, convert and use it."
    more = "The status of each: [docs/models.md](../docs/models.md)."
    return f"# Systems\n\n{text} {more}\n\n{table(head, rows)}\n"


def pages() -> dict[str, str]:
    """The pages by their paths in the site."""
    made = {f"systems/{name}.md": page(name) for name in sorted(FILES, key=title)}
    return {"systems/index.md": index()} | made
