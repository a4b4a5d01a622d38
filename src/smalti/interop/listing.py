"""The list of models: those that come with smalti, released ones, and recipes. It needs no torch.

smalti.list_models("llamagen*")
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from smalti.config import nearest
from smalti.interop.releases import TERMS, Release, Terms, of_file, releases
from smalti.interop.starters import CARD, cards

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class ListedModel:
    """A model as `smalti models` lists it. What is not known is "" or None."""

    name: str
    """What `smalti.load` takes or, of a recipe, `smalti train`."""
    kind: Literal["starter", "released", "recipe"]
    system: str
    """The model or, of a tokenizer alone, the tokenizer, as folders name it."""
    task: str
    size: str
    """Height and width in pixels; of the generator of a recipe, of its grid of codes."""
    parameters: int | None
    """Of the model, or of a tokenizer alone."""
    tokenizer_parameters: int | None
    """Of the tokenizer that belongs to a model."""
    data: str
    """The pictures of training; of a recipe, the source that it names."""
    fid: float | None
    """As published: of drawn pictures or, of a tokenizer, of reconstructed ones."""
    fid_said: str
    """Who says so: README of the project, paper, or card of a starter."""
    licence: str
    source: str
    """Where it comes from: a hub id, or the command that makes it."""
    needs: str = ""
    """The extra of smalti that drawing needs."""
    stored: int | None = None
    """Bytes of the folder of a starter, which lies here."""

    @property
    def disk(self) -> int | None:
        """Bytes of its folder: of a starter as it is, else in float32, without a text encoder;
        fewer if its weights are stored in fewer bits."""
        return self._bytes(4) if self.stored is None else self.stored

    @property
    def memory(self) -> int | None:
        """Bytes of the weights of a tokenizer in float32 and of a model in bfloat16, without a text
        encoder and what drawing takes beside weights."""
        return self._bytes(4 if self.task == "tokenizer" else 2)

    def _bytes(self, each: int) -> int | None:
        if self.parameters is None:
            return None
        return each * self.parameters + 4 * (self.tokenizer_parameters or 0)


def list_models(pattern: str = "*", pretrained: bool = False) -> list[ListedModel]:
    """List the models whose names match a pattern with `*` and `?`; a text without these matches
    every name that holds it. Upper and lower case are the same. With `pretrained` recipes are left
    out, which are models still to be trained.

    Raises ValueError, which names the nearest names, if no name matches.
    """
    wanted = pattern.lower()
    wanted = wanted if set("*?[") & set(wanted) else f"*{wanted}*"
    known = [m for m in every_model() if not (pretrained and m.kind == "recipe")]
    found = [m for m in known if fnmatch(m.name.lower(), wanted)]
    if not found:
        near = nearest(pattern.strip("*"), [m.name for m in known])
        hint = f"; the nearest are {', '.join(near)}" if near else ""
        raise ValueError(f"no model has a name like {pattern!r}{hint}")
    return found


def every_model() -> Iterator[ListedModel]:
    """Starters, then releases, then recipes."""
    for folder, card in cards().values():
        yield of_starter(folder, card)
    for release in releases().values():
        yield of_release(release)
    for name, facts in recipe_facts().items():
        yield of_recipe(name, facts)


# -- starters


def of_starter(folder: Path, card: Mapping[str, Any]) -> ListedModel:
    results = card["results"] if isinstance(card["results"], dict) else {}
    told = {name: str(card[name]) for name in CARD[:-1]}
    return ListedModel(
        kind="starter",
        parameters=card.get("parameters"),
        tokenizer_parameters=card.get("tokenizer_parameters"),
        fid=results.get("fid"),
        fid_said="card" if "fid" in results else "",
        source=f"comes with smalti ({folder.name})",
        stored=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        **told,
    )


# -- recipes and what was released of them


@functools.cache
def recipe_facts() -> dict[str, dict[str, Any]]:
    """What `benchmarks/recipe_facts.py` counted of every recipe, by name."""
    return json.loads((PACKAGE / "recipes" / "facts.json").read_text(encoding="utf-8"))


def of_release(release: Release) -> ListedModel:
    facts, terms = recipe_facts().get(release.recipe, {}), TERMS.get(release.project, Terms())
    fid = facts.get("fid") if not release.fid else None
    fid = float(release.fid) if release.fid not in ("", "none") else fid
    size = f"{release.pixels}x{release.pixels}" if release.pixels else ""
    return ListedModel(
        name=release.name,
        kind="released",
        system=facts.get("system", release.project),
        task=facts.get("task", "tokenizer" if not release.pixels else ""),
        size=size or facts.get("size", ""),
        parameters=facts.get("parameters"),
        tokenizer_parameters=recipe_facts().get(release.codes, {}).get("parameters"),
        data=release.data,
        fid=fid,
        fid_said=terms.said if fid is not None else "",
        licence=terms.licence,
        source=release.file or release.command,
        needs=release.needs,
    )


def card_of(file: str) -> dict[str, Any]:
    """What the model card of a pipeline made of a released file says of it; {} of another file."""
    release = of_file(file)
    if release is None:
        return {}
    model = of_release(release)
    result = {"metric": "fid", "value": model.fid, "dataset": model.data}
    said = {"said": f"{model.fid_said} of {release.project}"}
    results = [] if model.fid is None else [result | said]
    return {"base_model": release.repository, "terms": model.licence, "results": results}


def of_recipe(name: str, facts: Mapping[str, Any]) -> ListedModel:
    fid, on = facts.get("fid"), facts.get("fid_on", "")
    return ListedModel(
        name=name,
        kind="recipe",
        **{key: facts[key] for key in ("system", "task", "size", "data")},
        parameters=facts["parameters"] or None,
        tokenizer_parameters=None,
        fid=fid,
        fid_said="" if fid is None else f"published{f', on {on}' if on else ''}",
        licence="",
        source=f"smalti train {name}",
    )
