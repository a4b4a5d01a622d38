"""What a run began with, and what has changed since.

A run's folder notes the items of its data source in data.parquet (key, and a mark of class, caption
and size) and what else it learned from in init.json: fingerprints of the pipeline, the tokenizer,
the codes, documents or texts. These are compared when the run goes on, not how the command spells
where they are. What has changed is told, and the run goes on only if `data.on_changed` says so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smalti.config import read_json
from smalti.data.open import class_of, open_source
from smalti.data.source import Source
from smalti.data.token_cache import TokenCache
from smalti.files import expand, replacing
from smalti.modules import mark_of_codes, tokenizer_folder
from smalti.progress import say
from smalti.recipes.base import DataConfig, GeneratorRecipe, Recipe

META = b"smalti.data"
NAMED = 3
"""So many of the files that changed are named."""
ADVICE = (
    "Bring back what there was, give another --out, or go on with what is there now: "
    "--data.on-changed go-on"
)


def marks(source: Source) -> dict[str, int]:
    """A number for each item of a source, by its key, that changes with its class, caption or
    size."""
    found: dict[str, int] = {}
    for i in range(len(source)):
        label = source.label(i)
        about = [source.classes[label] if label >= 0 else "", source.caption(i), source.size(i)]
        text = json.dumps(about).encode("utf-8", "surrogatepass")
        found[source.key(i)] = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
    return found


def note(out: Path, source: Source) -> None:
    """Write what the source holds now into the run's folder, unless that is noted there."""
    path = out / "data.parquet"
    if path.is_file() and _noted(path)["fingerprint"] == source.fingerprint():
        return
    items = marks(source)
    about = {"fingerprint": source.fingerprint(), "classes": source.classes, "items": len(source)}
    columns = {"key": list(items), "mark": np.array(list(items.values()), np.uint64)}
    table = pa.table(columns).replace_schema_metadata({META: json.dumps(about).encode()})
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def _noted(path: Path) -> dict[str, object]:
    return json.loads(pq.read_schema(path).metadata[META])


def changes(out: Path, source: Source) -> str:
    """How the source differs from what the run in `out` noted, in words; "" if it does not."""
    path, fingerprint = out / "data.parquet", source.fingerprint()
    codes = out / "codes.arrow"
    if not path.is_file():
        if not codes.is_file() or (cache := TokenCache(codes)).source_fingerprint == fingerprint:
            return ""
        return f"{len(cache)} images were encoded then, it holds {len(source)} now"
    noted = _noted(path)
    if noted["fingerprint"] == fingerprint:
        return ""
    table = pq.read_table(path)
    old = dict(zip(table["key"].to_pylist(), table["mark"].to_pylist(), strict=True))
    new = marks(source)
    kinds = {
        "added": [key for key in new if key not in old],
        "removed": [key for key in old if key not in new],
        "changed": [key for key in new if key in old and new[key] != old[key]],
    }
    parts = [f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in kinds.items() if keys]
    if noted["classes"] != source.classes:
        parts.append(f"its classes were {noted['classes']}, now {source.classes}")
    return ", ".join(parts) or "the content of its files"


def _some(keys: Sequence[str]) -> str:
    return ", ".join(sorted(keys)[:NAMED]) + (", ..." if len(keys) > NAMED else "")


def check_data(out: Path, source: Source, data: DataConfig, classes: bool) -> None:
    """Raise ValueError if a run in `out` began with other data, and is not to go on all the same;
    never to other `classes`, if it learned them. Says what it goes on with."""
    if not (out / "recipe.json").is_file():
        return
    if not any((out / name).is_file() for name in ("data.parquet", "codes.arrow")):
        say(
            f"{out} was begun by an earlier smalti, which did not note its data: going on with "
            f"what {source.name} holds now"
        )
        return
    if not (change := changes(out, source)):
        return
    told = f"{source.name} has changed since the run in {out} began: {change}"
    if data.on_changed == "stop":
        raise ValueError(f"{told}. {ADVICE}")
    if classes and learned_classes(out) not in (None, source.classes):
        raise ValueError(f"{told}. A run cannot go on with other classes: give another --out")
    say(f"{told}; going on with what is there now")


def learned_classes(out: Path) -> object:
    """The classes that a run in `out` began with; None if it did not note them."""
    path, codes = out / "data.parquet", out / "codes.arrow"
    if codes.is_file():
        return TokenCache(codes).classes
    return _noted(path)["classes"] if path.is_file() else None


def check_codes_of(out: Path, cache: TokenCache, recipe: GeneratorRecipe) -> None:
    """Raise ValueError if a run in `out` learned codes of another tokenizer, or other codes than
    the cache that the recipe names, and is not to go on all the same."""
    path = out / "init.json"
    begun = read_json(path) if path.is_file() else {}
    if begun.get("tokenizer", cache.tokenizer) != cache.tokenizer:
        raise ValueError(
            f"the run in {out} learned codes of tokenizer {begun['tokenizer']}, {cache.path} has "
            f"those of {cache.tokenizer}: give that tokenizer, or another --out"
        )
    check_noted(out, "codes", cache.fingerprint(), str(cache.path), recipe.data)


def check_noted(out: Path, name: str, mark: str, where: str, data: DataConfig) -> None:
    """Raise ValueError if the run in `out` noted another fingerprint of its codes, documents or
    texts (`name`) than that of what is at `where` now, and is not to go on all the same."""
    path = out / "init.json"
    begun = read_json(path).get(name, mark) if path.is_file() else mark
    if begun == mark:
        return
    told = f"the run in {out} began with {name} {begun}, {where} is {mark}"
    if data.on_changed == "stop":
        raise ValueError(f"{told}. {ADVICE}")
    say(f"{told}; going on with these")


def mark_of(out: Path, name: str) -> str:
    """The fingerprint of the `init`, `tokenizer` or `codes` that a run began with; "" if the run
    did not note it."""
    path, codes = out / "init.json", out / "codes.arrow"
    noted = read_json(path) if path.is_file() else {}
    own = TokenCache(codes) if name != "init" and codes.is_file() else None
    if own is not None:
        return own.tokenizer if name == "tokenizer" else own.fingerprint()
    return str(noted.get("fingerprint" if name == "init" else name, ""))


def mark_at(name: str, where: str) -> str:
    """The fingerprint of the `init`, `tokenizer` or `codes` in a file or folder as it says it; ""
    where there is none."""
    path = expand(where)
    try:
        if name == "codes":
            return TokenCache(path).fingerprint()
        if name == "init" and (path / "pipeline.json").is_file():
            return str(read_json(path / "pipeline.json").get("fingerprint", ""))
        told = read_json(tokenizer_folder(path) / "config.json")
        return str(told.get("fingerprint", "")) if name == "init" else mark_of_codes(told)
    except (ValueError, OSError):
        return ""


def same_content(out: Path, name: str, recipe: Recipe) -> bool:
    """Whether a field of the recipe names what the run in `out` began with, however it is spelled,
    or something that is compared when it is opened."""
    if name == "data.source":
        noted = any((out / file).is_file() for file in ("data.parquet", "codes.arrow"))
        return noted or recipe.data.on_changed == "go-on" or bool(getattr(recipe, "codes", ""))
    if name == "codes" and recipe.data.on_changed == "go-on":
        return True
    if name not in ("init", "tokenizer", "codes"):
        return False
    begun = mark_of(out, name)
    return begun != "" and begun == mark_at(name, getattr(recipe, name))


def warn_of_changes(out: Path, recipe: Recipe) -> None:
    """Say what has changed since a finished run began, which did not learn that: the tokenizer, the
    codes, and images on this machine."""
    for name in ("init", "tokenizer", "codes"):
        where = getattr(recipe, name, "")
        begun, now = mark_of(out, name), mark_at(name, where) if where else ""
        if begun and now and begun != now:
            say(f"{out} is finished; it began with {name} {begun}, {where} is {now} by now")
    if not class_of(recipe.data.source).local or getattr(recipe, "codes", ""):
        return
    try:
        source = open_source(recipe.data.source)
        change = changes(out, source)
    except (ValueError, OSError):  # it may be gone
        return
    if change:
        say(
            f"{out} is finished, and {source.name} has changed since it began: {change}. "
            "Another --out trains on what is there now"
        )
