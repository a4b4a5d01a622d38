"""What a folder or file of smalti is."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from smalti import modules
from smalti.cli.reports import report_in
from smalti.config import read_json
from smalti.data.document_file import DocumentCache, is_document_file
from smalti.data.documents import Documents, is_documents, open_documents
from smalti.data.open import SCHEMES, open_source
from smalti.data.skipped import read, report
from smalti.data.token_cache import TokenCache
from smalti.devices import machine
from smalti.devices.named import best_device, drawing_dtype
from smalti.files import expand
from smalti.interop import starters
from smalti.interop.pickles import read_checkpoint
from smalti.nn.products import layouts
from smalti.nn.stored import SCALE
from smalti.text.words import FILE, FOLDER, Words
from smalti.train import checkpoint


def describe(text: str) -> dict[str, Any]:
    """Facts about a pipeline, tokenizer of pictures or text, model, run, report, token cache,
    picture, documents or a data source; of a data source also which recipe suits it.

    Raises ValueError if it is none of them.
    """
    path = expand(text)
    if not path.exists() and (starter := starters.find(text)):
        path = starter
    if text.partition(":")[0] in SCHEMES and not path.exists():
        return _source(text)
    if is_documents(text) and not path.exists():
        return _documents(open_documents(text))
    if path.is_file():
        return _file(path)
    if path.is_dir():
        for name, reader in (
            ("pipeline.json", _pipeline),
            ("recipe.json", _run),
            ("config.json", _module),
            (FILE, _words),
        ):
            if (path / name).is_file():
                return reader(path)
        try:
            return _source(text)
        except ValueError as error:
            raise ValueError(
                f"{path} is not a pipeline, a tokenizer, a model or a run, nor pictures: {error}"
            ) from None
    from smalti.loading import download, tokenizer_at

    alone = tokenizer_at(text)
    return _module(alone) if alone.is_dir() else _pipeline(download(text))


def machine_facts() -> dict[str, Any]:
    """Facts about this machine and, where it draws on a CPU, by what weights are multiplied."""
    return machine.facts() | (layouts() if best_device().type == "cpu" else {})


def _source(text: str) -> dict[str, Any]:
    """Facts about a data source, and which recipe suits it."""
    from smalti.cli.advice import advice

    return advice(open_source(text))


def png_metadata(path: Path) -> dict[str, Any]:
    """What smalti wrote into a PNG. Raises ValueError if it wrote nothing."""
    try:
        with Image.open(path) as image:
            image.load()
            text = image.info.get("smalti")
    except FileNotFoundError:
        raise ValueError(f"no such file: {path}") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from None
    if text is None:
        raise ValueError(f"{path} was not written by smalti: it has no such metadata")
    return json.loads(text)


def _picture(path: Path) -> dict[str, Any]:
    return {"kind": "picture", **png_metadata(path)}


def _file(path: Path) -> dict[str, Any]:
    """What a file is: a picture, a report, a text tokenizer, documents that are encoded or, of all
    others, a token cache."""
    if path.suffix.lower() == ".png":
        return _picture(path)
    if path.suffix.lower() == ".json":
        return report_in(path) or _words(path)
    return _encoded(DocumentCache(path)) if is_document_file(path) else _cache(path)


def _documents(documents: Documents) -> dict[str, Any]:
    """Facts about documents, whose first one is shown."""
    tasks = Counter(documents.task(i) for i in range(len(documents)))
    first = [piece.text or "(a picture)" for piece in read(documents, 0) or []]
    return {
        "kind": "documents",
        "documents": len(documents),
        "tasks": dict(tasks.most_common()),
        "first": first,
        "source": documents.name,
        **report(documents.skipped),
    }


def _words(path: Path) -> dict[str, Any]:
    """Facts about a text tokenizer, its file or its folder."""
    words = Words.open(path)
    return {
        "kind": "text tokenizer",
        "vocab": words.vocab,
        "model": words.model,
        "marks": words.specials,
        "fingerprint": words.fingerprint(),
    }


def _encoded(cache: DocumentCache) -> dict[str, Any]:
    return {
        **_documents(cache),
        "held_out": len(cache.indices("held_out")),
        "grids": cache.spec.grids,
        "vocab": cache.spec.vocab,
        "channels": cache.spec.channels,
        "source": cache.source,
        "tokenizer": cache.tokenizer,
        **({"eye": cache.eye} if cache.eye else {}),
    }


def _cache(path: Path) -> dict[str, Any]:
    cache = TokenCache(path)
    return {
        "kind": "token cache",
        "images": len(cache),
        "held_out": len(cache.indices("held_out")),
        "views": cache.views,
        "grids": cache.spec.grids,
        "vocab": cache.spec.vocab,
        "channels": cache.spec.channels,
        "posterior": cache.posterior,
        "classes": cache.classes,
        "source": cache.source,
        "transform": cache.transform,
        "tokenizer": cache.tokenizer,
        "text": cache.encoder,
    }


def _module(folder: Path) -> dict[str, Any]:
    info = read_json(folder / "config.json")
    kinds = {"tokenizer": modules.TOKENIZERS, "text encoder": modules.TEXT}
    kinds |= {"towers": modules.TOWERS, "eye": modules.EYES}
    kinds |= {"language model": modules.LANGUAGES}
    known = next((k for k, among in kinds.items() if info.get("type") in among), "model")
    shapes = _shapes(folder, ours="type" in info)
    return {"kind": known, "parameters": sum(map(math.prod, shapes)), **info}


def _shapes(folder: Path, ours: bool) -> Iterable[Sequence[int]]:
    """Shapes of the weights in a folder, of a module of ours or of whatever was released."""
    from safetensors import SafetensorError, safe_open

    weights = folder / "model.safetensors"
    if not ours:
        return [tensor.shape for tensor in read_checkpoint(folder).state.values()]
    try:
        with safe_open(weights, "pt") as file:
            names = [k for k in file.keys() if not k.endswith(SCALE)]  # noqa: SIM118
            return [file.get_slice(k).get_shape() for k in names]
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{weights} cannot be read: {error}") from None


def _pipeline(folder: Path) -> dict[str, Any]:
    parts = {"model": _module(folder / "model")}
    for name in ("tokenizer", "text", "eye"):
        if (folder / name).is_dir():
            parts[name] = _module(folder / name)
    if (folder / FOLDER).is_dir():
        parts["words"] = _words(folder / FOLDER)
    dtype, why = drawing_dtype(best_device())
    chosen = {"draws_in": f"{str(dtype).removeprefix('torch.')} on {best_device()}, as {why}"}
    return {"kind": "pipeline", **read_json(folder / "pipeline.json")} | parts | chosen


def _run(folder: Path) -> dict[str, Any]:
    done = checkpoint.found(folder / "checkpoints")
    report, recipe = folder / "report.json", read_json(folder / "recipe.json")
    steps = recipe.get("train", {}).get("steps")
    return {
        "kind": "run",
        "finished": report.is_file() and read_json(report).get("steps") == steps,
        "last_checkpoint": done[-1].name if done else None,
        "report": read_json(report) if report.is_file() else None,
        "recipe": recipe,
    }
