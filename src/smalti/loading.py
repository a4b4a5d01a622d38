"""Pipelines from folders, those that come with smalti, from the Hugging Face hub, and from released
weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from smalti import modules
from smalti.arguments import in_our_words
from smalti.config import did_you_mean, from_dict, nearest, no_such, read_json
from smalti.devices.float32 import set_products
from smalti.devices.named import drawing_dtype, named_device, named_dtype
from smalti.files import expand, filling
from smalti.interop import starters
from smalti.models.eye import Eye, TowerEyeConfig, taken
from smalti.models.towers import Matcher, TowersConfig
from smalti.modules import (
    FILES,
    check_module,
    load_module,
    mark_of_codes,
    tokenizer_folder,
    write_module,
)
from smalti.nn.finite import require_finite_weights
from smalti.pipeline.conversation import Phrases, Writing
from smalti.pipeline.diffusers import DiffusersPipeline
from smalti.pipeline.pipeline import Pipeline
from smalti.pipeline.sampling import Sampling
from smalti.pipeline.unified import UnifiedPipeline
from smalti.progress import say_once
from smalti.text.encoders import TextEncoder
from smalti.text.words import FOLDER, Words
from smalti.tokenizers.base import ImageTokenizer


def load(
    path: str | Path,
    device: torch.device | str | int | None = None,
    dtype: torch.dtype | str | None = None,
    verify: bool = True,
    revision: str | None = None,
    **unknown: Any,
) -> Pipeline | UnifiedPipeline:
    """Load a pipeline from a folder, by a name of `list_models`, such as llamagen-b-256 or
    smalti/emoji64, which comes with smalti, or from the Hugging Face hub by an id (owner/name). A
    pipeline of text and pictures is a `UnifiedPipeline`, any other a `Pipeline`.

    An id owner/name/file means released weights, such as FoundationVision/LlamaGen/c2i_B_256.pt,
    which are converted when they are first loaded; no code of the hub is run.

    Args:
        path: the folder, name or hub id.
        device: such as "cuda:1"; the default, and "auto", is the best device that there is.
        dtype: of the generator's weights, float32, bfloat16 or float16; the default, and "auto", is
            bfloat16 where the device is faster in it, else float32. The tokenizer stays in float32.
        verify: whether the weights are compared with their fingerprints, which takes 0.6 s per GB.
        revision: a branch, a tag or a commit of a repository of the hub.
    Raises ValueError if there is no pipeline, naming the nearest models, if tokenizer and model do
    not belong together, and for an unknown argument, with the name that it has here.
    """
    if unknown:
        raise ValueError(_unknown(*unknown))
    place, weights = named_device(device), named_dtype(dtype)
    folder = pipeline_folder(path, revision)
    kind = load_unified if is_unified(folder) else load_pipeline
    return kind(folder, place, weights, verify)


def pipeline_folder(path: str | Path, revision: str | None = None) -> Path:
    """The folder of a pipeline: this one or, where there is none, the starter, the local copy of
    the hub repository or what was made of the released weights of this name.

    Raises ValueError if there is none of these, and for the revision of a folder, which has none.
    """
    if not isinstance(path, str | Path) or not str(path):
        raise ValueError(f"a pipeline must be a folder, a name or a hub id, got {path!r}")
    folder = expand(path)
    if not folder.is_dir():
        return download(str(path), revision=revision)
    if revision is not None:
        raise ValueError(f"a revision is one of the hub: {folder} is a folder, got {revision!r}")
    if str(path) in starters.starters():
        say_once(f"{path} is the folder of that name, not the starter")
    return folder


def is_unified(folder: Path) -> bool:
    """Whether a folder holds a pipeline of text and pictures."""
    file = folder / "pipeline.json"
    return file.is_file() and read_json(file).get("kind") == "unified"


def load_unified(
    path: str | Path,
    device: torch.device | str | int | None = None,
    dtype: torch.dtype | str | None = None,
    verify: bool = True,
    revision: str | None = None,
) -> UnifiedPipeline:
    """Load a pipeline of text and pictures from a folder or a hub id. Arguments are those of
    `load`.

    Raises ValueError for a pipeline of pictures alone, and if its parts do not belong together.
    """
    folder, info, device, weights = _found(path, device, dtype, revision)
    if info.get("kind") != "unified":
        raise ValueError(f"{folder} draws pictures and reads and writes no text")
    model, about = load_module(folder / "model", modules.UNIFIED, device, weights, verify)
    words, kinds = Words.open(folder / "words"), dict[str, dict[str, modules.Entry]]()
    if model.config.drawing:
        kinds["tokenizer"] = modules.TOKENIZERS
    if "eye" in about:
        kinds["eye"] = modules.EYES
    found = {n: load_module(folder / n, k, device, verify=verify) for n, k in kinds.items()}
    parts = {name: part for name, (part, _) in found.items()}
    marks = {name: told["fingerprint"] for name, (_, told) in found.items()}
    marks["words"] = words.fingerprint()
    learned = marks | {name: mark_of_codes(told) for name, (_, told) in found.items()}
    for name, mark in learned.items():
        if about.get(name) != mark:
            raise ValueError(
                f"{folder}: the model was trained with {name} {about.get(name)}, the folder holds "
                f"{name} {mark}"
            )
    where = f"{folder}/pipeline.json"
    sampling = from_dict(Sampling, info.get("sampling", {}), f"{where}: sampling")
    writing = from_dict(Writing, info.get("writing", {}), f"{where}: writing")
    phrases = from_dict(Phrases, info.get("phrases", {}), f"{where}: phrases")
    marks["model"] = about["fingerprint"]
    order = ("tokenizer", "model", "words", "eye")
    info["fingerprint"] = "-".join(marks[name] for name in order if name in marks)
    tokenizer, eye = parts.get("tokenizer"), parts.get("eye")
    return UnifiedPipeline(tokenizer, model, words, sampling, writing, phrases, info, eye)


def load_pipeline(
    path: str | Path,
    device: torch.device | str | int | None = None,
    dtype: torch.dtype | str | None = None,
    verify: bool = True,
    revision: str | None = None,
    **unknown: Any,
) -> Pipeline:
    """Load a pipeline of pictures. Arguments are those of `load`.

    Raises ValueError for a pipeline of text and pictures, and as `load` does.
    """
    if unknown:
        raise ValueError(_unknown(*unknown))
    folder, info, device, weights = _found(path, device, dtype, revision)
    if info.get("kind") == "unified":
        raise ValueError(
            f"{folder} is a pipeline of text and pictures, which this does not take: see smalti "
            "sample, ask, caption, chat and edit"
        )
    tokenizer, told = load_module(folder / "tokenizer", modules.TOKENIZERS, device, verify=verify)
    model, model_info = load_module(folder / "model", modules.MODELS, device, weights, verify)
    mark = told["fingerprint"]
    if model_info.get("tokenizer") != mark_of_codes(told):
        raise ValueError(
            f"{folder}: the model was trained on codes of tokenizer {model_info.get('tokenizer')}, "
            f"the folder holds tokenizer {mark_of_codes(told)}"
        )
    text = _load_text(folder, model_info.get("text"), device, weights, verify)
    sampling = from_dict(Sampling, info.get("sampling", {}), f"{folder}/pipeline.json: sampling")
    classes = _classes(folder, info, model.reads.classes)
    map = _load_map(folder, model_info.get("map"), device, verify)
    marks = [mark, model_info["fingerprint"], model_info.get("text")]
    if map is not None:
        marks.append(read_json(folder / "map" / FILES[0])["fingerprint"])
    info["fingerprint"] = "-".join(m for m in marks if m is not None)
    return Pipeline(tokenizer, model, classes, sampling, info, text, map)


def load_tokenizer(
    path: str | Path, device: torch.device | str | int | None = None, verify: bool = True
) -> ImageTokenizer:
    """Load a tokenizer from its own folder, from that of a pipeline, by a name of `list_models`, or
    by a hub id.

    A hub id is owner/name/file, such as TencentARC/IBQ-Tokenizer-1024/imagenet256_1024.ckpt.
    Arguments are those of `load`. Raises ValueError if there is no tokenizer.
    """
    folder, place = tokenizer_at(path), named_device(device)
    return load_module(folder, modules.TOKENIZERS, place, verify=verify)[0]


RELEASED = ["*.json", "*.safetensors"]
"""The files of a released CLIP, SigLIP or language model that are downloaded."""
PICKLED = ["*.json", "pytorch_model*.bin"]
"""Those of one that has no safetensors."""
LEARNED = ("source", "holdout", "credit")
"""What towers say of the pictures that they learned, and whose art those are."""


def is_towers(folder: Path) -> bool:
    """Whether a folder holds towers: ours, or a CLIP or a SigLIP of transformers."""
    from smalti.interop.towers import KINDS

    file = folder / FILES[0]
    told = read_json(file) if file.is_file() else {}
    return told.get("type") in modules.TOWERS or told.get("model_type") in KINDS


def load_towers(
    path: str | Path, device: torch.device | str | int | None = None, verify: bool = True
) -> Matcher:
    """Load towers of pictures and texts with their text tokenizer, in float32: a folder that
    training wrote, one of transformers with a CLIP or a SigLIP, or the hub id of such a one.

    Arguments are those of `load`. Raises ValueError if there are no towers, or if the text
    tokenizer is not the one that they learned.
    """
    from smalti.interop.towers import load_released

    place, folder = named_device(device), expand(path)
    if not folder.is_dir():
        folder = released_folder(str(path))
    file = folder / FILES[0]
    if not file.is_file():
        raise ValueError(f"{folder} holds no towers: it has no {FILES[0]}{within(folder)}")
    if "model_type" in read_json(file):
        matcher = load_released(folder)
        return matcher._replace(towers=matcher.towers.to(place))
    towers, info = load_module(folder, modules.TOWERS, place, verify=verify)
    words = Words.open(folder / FOLDER)
    require_words(folder, info, words, "towers were")
    return Matcher(towers, words, info)


def released_folder(repo: str) -> Path:
    """The local copy of a released CLIP, SigLIP or language model of a hub repository. Raises
    ValueError as `download` does."""
    folder = download(repo, RELEASED)
    return folder if any(folder.rglob("*.safetensors")) else download(repo, PICKLED)


def load_eye(
    path: str | Path,
    take: Callable[[TowersConfig], TowerEyeConfig] = TowerEyeConfig.of,
    device: torch.device | str | None = None,
    verify: bool = True,
) -> Eye:
    """Load an eye, in float32: from its folder, from that of a pipeline which has one, or from
    towers, found as `load_towers` finds them, of which it is taken as `take` says.

    Raises ValueError if there are neither.
    """
    place, folder = named_device(device), expand(path)
    inside = folder / "eye"
    folder = inside if (inside / FILES[0]).is_file() else folder
    file = folder / FILES[0]
    if file.is_file() and read_json(file).get("type") in modules.EYES:
        return load_module(folder, modules.EYES, place, verify=verify)[0]
    towers = load_towers(path, place, verify).towers
    return taken(towers, take(towers.config))


def save_towers(matcher: Matcher, folder: str | Path, **extra: Any) -> str:
    """Write towers with their text tokenizer to a folder, new, empty or of such ones, and return
    their fingerprint; `extra` goes into config.json.

    Raises ValueError for a folder of something else, and for weights that are NaN or infinite.
    """
    return save_with_words(matcher.towers, matcher.words, folder, matcher.info, extra)


def save_with_words(
    module: nn.Module,
    words: Words,
    folder: str | Path,
    info: Mapping[str, Any],
    extra: Mapping[str, Any],
) -> str:
    """Write a module with its text tokenizer, with what its `info` says of what it learned, and
    return its fingerprint. Raises ValueError as `save_towers` does."""
    folder, known = expand(folder), {k: info[k] for k in LEARNED if k in info}
    check_module(folder)
    require_finite_weights(module.state_dict(), f"{folder} is not written")
    with filling(folder) as temporary:
        words.save(temporary / FOLDER)
        return write_module(module, temporary, words=words.fingerprint(), **known | dict(extra))


def require_words(folder: Path, info: Mapping[str, Any], words: Words, what: str) -> None:
    """Raise ValueError unless a text tokenizer is the one that a module's config.json names."""
    if info.get("words") != (mark := words.fingerprint()):
        raise ValueError(
            f"{folder}: the {what} trained with words {info.get('words')}, the folder holds words "
            f"{mark}"
        )


def tokenizer_at(path: str | Path) -> Path:
    """The folder of a tokenizer, of its own or in a pipeline, or what a hub id's file became."""
    folder = expand(path)
    if not folder.is_dir():
        if starter := starters.find(str(path)):
            return tokenizer_folder(starter)
        from smalti.interop import hub

        if released := hub.find_tokenizer(str(path)):
            return hub.obtain(str(path), released)
    return tokenizer_folder(folder)


def _found(
    path: str | Path,
    device: torch.device | str | int | None,
    dtype: torch.dtype | str | None,
    revision: str | None,
) -> tuple[Path, dict[str, Any], torch.device, torch.dtype]:
    """The folder of a pipeline and its pipeline.json, and the device and dtype of its weights."""
    place, weights = named_device(device), named_dtype(dtype)
    if weights is None:
        weights, _ = drawing_dtype(place)
    set_products(place)
    folder = pipeline_folder(path, revision)
    return folder, _read_info(folder), place, weights


def _read_info(folder: Path) -> dict[str, Any]:
    """The pipeline.json of a folder. Raises ValueError if it has none that can be read here."""
    file = folder / "pipeline.json"
    if not file.is_file():
        raise ValueError(f"{folder} is not a pipeline: it has no pipeline.json{within(folder)}")
    info = read_json(file)
    if info.get("format") != 1:
        raise ValueError(f"{file}: format must be 1, got {info.get('format')!r}")
    return info


def _classes(folder: Path, info: dict[str, Any], count: int) -> list[str]:
    """The names of the `count` classes of a model, or none. Raises ValueError for anything else."""
    classes = info.get("classes", [])
    if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
        raise ValueError(f"{folder}/pipeline.json: classes must be names, got {classes!r}")
    if len(classes) not in (0, count):
        raise ValueError(
            f"{folder}/pipeline.json names {len(classes)} classes, the model has {count}"
        )
    return classes


def _unknown(name: str, *_: str) -> str:
    names = ("path", "device", "dtype", "verify", "revision")
    near = did_you_mean(name, names)
    return in_our_words(name, names) or f"load has {', '.join(names)}, got {name}{near}"


def within(run: Path) -> str:
    """What to take of a training run's or a pipeline's folder in place of the folder itself; "" of
    any other."""
    kind = "a pipeline" if (run / "pipeline.json").is_file() else "a training run"
    parts = {"pipeline": "pipeline.json", "tokenizer": "config.json", "towers": "config.json"}
    parts["language"] = "config.json"
    for name, file in parts.items():
        if (run / name / file).is_file():
            return f"; it is {kind}, with its {name} in {run / name}"
    return ""


def _load_text(
    folder: Path, mark: str | None, device: torch.device, dtype: torch.dtype, verify: bool
) -> TextEncoder | None:
    """The text encoder with the fingerprint `mark`, which is None for a model without text."""
    if mark is None:
        return None
    text, about = load_module(folder / "text", modules.TEXT, device, verify=verify)
    if about["fingerprint"] != mark:
        raise ValueError(
            f"{folder}: the model was trained with text encoder {mark}, the folder holds text "
            f"encoder {about['fingerprint']}"
        )
    return text.to(dtype)


def _load_map(
    folder: Path, mark: str | None, device: torch.device, verify: bool
) -> ImageTokenizer | None:
    """The tokenizer of maps whose codes have the fingerprint `mark`, which is None for a model
    without maps."""
    if mark is None:
        return None
    map, about = load_module(folder / "map", modules.TOKENIZERS, device, verify=verify)
    if mark_of_codes(about) != mark:
        raise ValueError(
            f"{folder}: the model was trained with maps of tokenizer {mark}, the folder holds map "
            f"{mark_of_codes(about)}"
        )
    return map


def download(repo: str, files: list[str] | None = None, revision: str | None = None) -> Path:
    """The folder of a starter, or the local copy of a hub repository, all of it or its `files`,
    which may have a *, or a pipeline made of released weights that it holds.

    Raises ValueError if it cannot be had, naming the nearest models.
    """
    if starter := starters.find(repo):
        return starter
    from smalti.interop import hub, kinds

    if (file := expand(repo)).is_file():
        raise ValueError(f"{repo} is a file, not a pipeline; {kinds.advice(file)}")
    local = repo.startswith((".", "/", "~"))
    if not local and (released := hub.find(repo)):
        return hub.obtain(repo, released, revision)
    if local or repo.count("/") != 1:
        raise ValueError(_unheard_of(repo, local))
    from huggingface_hub import snapshot_download

    pinned = hub.pin(revision)
    return hub.ask(repo, lambda: snapshot_download(repo, allow_patterns=files, **pinned))


def _unheard_of(name: str, local: bool) -> str:
    """The complaint about a name of nothing, with the models that were perhaps meant."""
    from smalti.interop.listing import every_model

    gone = no_such(Path(name).expanduser())
    text = f"{name} is neither a folder nor a hub id (owner/name): {gone}"
    if local:
        return text
    if name in (known := {model.name: model for model in every_model()}):
        return f"{text}; it is a recipe: {known[name].source}"
    near = nearest(name, [n for n, model in known.items() if model.kind != "recipe"])
    return f"{text}; the nearest of smalti models: {', '.join(near)}" if near else text


Pipeline.from_pretrained = staticmethod(load_pipeline)
UnifiedPipeline.from_pretrained = staticmethod(load_unified)
DiffusersPipeline.load = staticmethod(load_pipeline)
