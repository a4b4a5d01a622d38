"""The systems by name, and folders of one module: `config.json` and `model.safetensors`.

A new model or text encoder costs one line here, a new tokenizer one in `tokenizers/kinds.py`.
Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from smalti.config import Entry, from_dict, no_such, read_json, to_dict
from smalti.files import check_folder, filling, write_json, write_tensors
from smalti.models import (
    dalle,
    depth_language,
    dnd,
    dual_eye,
    emu3,
    eye,
    flamingo,
    fluid,
    hart,
    ibq,
    illume,
    imagegpt,
    infinity,
    janus,
    language,
    llamagen,
    llm2clip,
    mar,
    maskbit,
    maskgit,
    meissonic,
    metamorph,
    one_vocabulary,
    open_magvit2,
    parti,
    rar,
    rq_transformer,
    show_o,
    taming,
    titok,
    towers,
    transfusion,
    transfusion_paper,
    unifluid,
    var,
)
from smalti.models.generator import Generator
from smalti.models.unified import Unified
from smalti.nn.finite import require_finite_weights
from smalti.nn.stored import Bits, named_bits, narrowed, widened
from smalti.nn.unfilled import unfilled
from smalti.text import byte_words as byte_level
from smalti.text import clip, language_model, t5, word_ids
from smalti.tokenizers import refined
from smalti.tokenizers.base import ImageTokenizer
from smalti.tokenizers.kinds import KINDS

TOKENIZERS = KINDS | {"refined": Entry(refined.RefinedConfig, refined.Refined, refined.tiny)}
"""Tokenizers of pictures."""
MODELS = {
    "dalle": Entry(dalle.DALLEConfig, dalle.DALLE, dalle.tiny),
    "dnd": Entry(dnd.DnDConfig, dnd.DnD, dnd.tiny),
    "fluid": Entry(fluid.FluidConfig, fluid.fluid, fluid.tiny),
    "hart": Entry(hart.HARTConfig, hart.HART, hart.tiny),
    "ibq": Entry(ibq.IBQConfig, ibq.IBQ, ibq.tiny),
    "imagegpt": Entry(imagegpt.ImageGPTConfig, imagegpt.ImageGPT, imagegpt.tiny),
    "infinity": Entry(infinity.InfinityConfig, infinity.Infinity, infinity.tiny),
    "llamagen": Entry(llamagen.LlamaGenConfig, llamagen.LlamaGen, llamagen.tiny),
    "mar": Entry(mar.MARConfig, mar.MAR, mar.tiny),
    "open_magvit2": Entry(
        open_magvit2.OpenMAGVIT2Config, open_magvit2.OpenMAGVIT2, open_magvit2.tiny
    ),
    "parti": Entry(parti.PartiConfig, parti.Parti, parti.tiny),
    "rar": Entry(rar.RARConfig, rar.RAR, rar.tiny),
    "rq_transformer": Entry(
        rq_transformer.RQTransformerConfig, rq_transformer.RQTransformer, rq_transformer.tiny
    ),
    "titok_generator": Entry(titok.TiTokGeneratorConfig, titok.TiTokGenerator, titok.tiny),
    "taming": Entry(taming.TamingConfig, taming.Taming, taming.tiny),
    "var": Entry(var.VARConfig, var.VAR, var.tiny),
    "maskbit": Entry(maskbit.MaskBitConfig, maskbit.MaskBit, maskbit.tiny),
    "maskgit": Entry(maskgit.MaskGITConfig, maskgit.MaskGIT, maskgit.tiny),
    "meissonic": Entry(meissonic.MeissonicConfig, meissonic.Meissonic, meissonic.tiny),
}
UNIFIED = {
    "depth_language": Entry(
        depth_language.DepthLanguageConfig, depth_language.DepthLanguage, depth_language.tiny
    ),
    "flamingo": Entry(flamingo.FlamingoConfig, flamingo.Flamingo, flamingo.tiny),
    "emu3": Entry(emu3.Emu3Config, emu3.Emu3, emu3.tiny),
    "illume": Entry(illume.IllumeConfig, illume.Illume, illume.tiny),
    "janus": Entry(janus.JanusConfig, janus.Janus, janus.tiny),
    "metamorph": Entry(metamorph.MetaMorphConfig, metamorph.MetaMorph, metamorph.tiny),
    "one_vocabulary": Entry(
        one_vocabulary.OneVocabularyConfig, one_vocabulary.OneVocabulary, one_vocabulary.tiny
    ),
    "show_o": Entry(show_o.ShowOConfig, show_o.ShowO, show_o.tiny),
    "transfusion": Entry(transfusion.TransfusionConfig, transfusion.Transfusion, transfusion.tiny),
    "transfusion_paper": Entry(
        transfusion_paper.TransfusionPaperConfig,
        transfusion_paper.TransfusionPaper,
        transfusion_paper.tiny,
    ),
    "unifluid": Entry(unifluid.UniFluidConfig, unifluid.UniFluid, unifluid.tiny),
}
"""Models of text and pictures in one sequence."""
TOWERS = {
    "towers": Entry(towers.TowersConfig, towers.Towers, towers.tiny),
    "llm2clip": Entry(llm2clip.LLM2CLIPConfig, llm2clip.LLM2CLIP, llm2clip.tiny),
}
"""What says how well pictures and texts match."""
LANGUAGES = {
    "language": Entry(language.LanguageConfig, language.Language, language.tiny),
    "sentences": Entry(llm2clip.SentencesConfig, llm2clip.Sentences, llm2clip.tiny_sentences),
}
"""Language models alone: that write, and that make one vector of a text."""
EYES = {
    "dual_eye": Entry(dual_eye.DualEyeConfig, dual_eye.DualEye, dual_eye.tiny),
    "tower_eye": Entry(eye.TowerEyeConfig, eye.TowerEye, eye.tiny),
}
"""What sees pictures for models that read them in another form than they draw them."""
TEXT = {
    "bytes": Entry(byte_level.BytesConfig, byte_level.ByteEncoder, byte_level.tiny),
    "clip": Entry(clip.CLIPConfig, clip.CLIP, clip.tiny),
    "language_model": Entry(
        language_model.LanguageModelConfig, language_model.LanguageModel, language_model.tiny
    ),
    "t5": Entry(t5.T5Config, t5.T5, t5.tiny),
    "word_ids": Entry(word_ids.WordIdsConfig, word_ids.WordIds, word_ids.tiny),
}


def entry(kind: Any, among: dict[str, Entry], where: str) -> Entry:
    """Look a name up. Raises ValueError naming what is known."""
    if not isinstance(kind, str) or kind not in among:
        raise ValueError(f"{where}: type must be one of {', '.join(among)}, got {kind!r}")
    return among[kind]


def module_of(config: Any, among: dict[str, Entry]) -> Any:
    """A new module of a configuration."""
    for item in among.values():
        if type(config) is item.config:
            return item.module(config)
    raise ValueError(f"{type(config).__name__} is not registered")


def name_of(module: Any) -> str:
    """The name under which a module's configuration is registered."""
    for known in (TOKENIZERS, MODELS, UNIFIED, TOWERS, LANGUAGES, EYES, TEXT):
        for name, item in known.items():
            if type(getattr(module, "config", None)) is item.config:
                return name
    raise ValueError(f"{type(module).__name__} is not registered")


def fingerprint(module: nn.Module) -> str:
    """A hash of a module's type, configuration and weights: 16 hexadecimal digits.

    Fields of the configuration that have their default do not count, so that a later smalti may
    have more of them.
    """
    return _fingerprint(name_of(module), module.config, module.state_dict())


def coder(module: Any) -> Any:
    """What makes the codes that a module gives: of a tokenizer its `coder`, else itself.

    Its fingerprint is what models, files of codes and of documents store, so that whatever gives
    the same codes can stand in its place.
    """
    return module.coder if isinstance(module, ImageTokenizer) else module


def _fingerprint(kind: str, config: Any, tensors: dict[str, Tensor]) -> str:
    plain = to_dict(config)
    config = from_dict(type(config), plain)  # tuples, whatever it was made of
    given = {f.name: plain[f.name] for f in fields(config) if getattr(config, f.name) != f.default}
    digest = hashlib.sha256(kind.encode())
    digest.update(repr(sorted(given.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + str(tensor.dtype).encode())
        digest.update(struct.pack(f"{tensor.dim()}q", *tensor.shape))
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()[:16]


def identity(module: nn.Module) -> dict[str, Any]:
    """What a module is, for files that depend on it: type, config and fingerprint, and that of what
    makes its codes where this is another one."""
    known = {
        "type": name_of(module),
        "config": to_dict(module.config),
        "fingerprint": fingerprint(module),
    }
    other = coder(module)
    return known if other is module else known | {"coder": fingerprint(other)}


def mark_of_codes(info: Mapping[str, Any]) -> str:
    """The fingerprint of what makes a module's codes, of its config.json."""
    return str(info.get("coder", info.get("fingerprint", "")))


FILES = ("config.json", "model.safetensors")
"""What the folder of a module holds."""


def check_module(folder: Path) -> None:
    """Raise ValueError, naming what is there, unless a module may be written to the folder: it is
    new, empty, or a module's already."""
    check_folder(folder, FILES[0], ("type", "config", "fingerprint"), "a tokenizer or a model")


def save_module(module: nn.Module, folder: Path, **extra: Any) -> str:
    """Write a module and return its fingerprint; `extra` goes into config.json.

    A new folder is complete or not there. In that of another module the two files are replaced, and
    what else it holds stays. Raises ValueError for a folder of something else and for weights
    that are NaN or infinite, and OSError naming the file, on a full disk for example.
    """
    check_module(folder)
    require_finite_weights(module.state_dict(), f"{folder} is not written")
    with filling(folder) as temporary:
        return write_module(module, temporary, **extra)


def write_module(module: nn.Module, folder: Path, bits: Bits | None = None, /, **extra: Any) -> str:
    """Write the files of a module into a folder that is being made, and return its fingerprint.
    With `bits` a module whose weights were rounded to them (`nn.stored`) takes no more in it."""
    known, weights, state = identity(module), folder / FILES[1], module.state_dict()
    if bits is not None:
        known, state = known | {"stored": bits}, narrowed(state, bits, exact_names(module))
    folder.mkdir(exist_ok=True)
    try:
        write_tensors(weights, state)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(weights)) from error
    write_json(folder / FILES[0], known | extra)
    return known["fingerprint"]


def tokenizer_folder(folder: Path) -> Path:
    """Where the tokenizer is: in a folder of its own, or in a pipeline's."""
    inside = folder / "tokenizer"
    return inside if (inside / "config.json").is_file() else folder


def load_module(
    folder: Path,
    among: dict[str, Entry],
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    verify: bool = True,
) -> tuple[Any, dict[str, Any]]:
    """A module in evaluation mode and its config.json.

    `dtype` converts the floating-point weights; None keeps the stored one, and of weights that are
    stored in fewer bits (`nn.stored`) gives float32. `verify` compares type,
    configuration and weights with the stored fingerprint, which takes 0.6 s per GB, and refuses
    weights that are NaN or infinite, 0.06 s per GB of float32. Raises ValueError naming the file if
    something is missing, damaged or of another shape.
    """
    path = folder / "config.json"
    if not path.is_file():
        gone = "" if folder.exists() else f": {no_such(folder)}"
        raise ValueError(f"{folder} is not a folder with a config.json{gone}")
    info = read_json(path)
    item = entry(info.get("type", ""), among, str(path))
    for name in ("config", "fingerprint"):
        if name not in info:
            raise ValueError(f"{path} has no {name!r}")
    config = from_dict(item.config, info["config"], str(path))
    weights = folder / "model.safetensors"
    try:
        tensors = load_file(weights, device=str(device))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{weights} cannot be read: {error}") from None
    if "stored" in info:
        tensors = widened(tensors, named_bits(info["stored"]), str(weights))
    module = assemble(item.module, config, tensors, str(weights), dtype, verify)
    if verify and info["fingerprint"] != (mark := _fingerprint(info["type"], config, tensors)):
        raise ValueError(
            f"{folder} is damaged or was changed: config.json gives fingerprint "
            f"{info['fingerprint']}, type, configuration and weights have {mark}"
        )
    return module, info


def exact_names(module: nn.Module) -> tuple[str, ...]:
    """How the names of weights begin that keep their float32."""
    return module.FLOAT32 if isinstance(module, Generator | Unified) else ()


def assemble(
    kind: Callable[[Any], nn.Module],
    config: Any,
    tensors: dict[str, Tensor],
    where: str,
    dtype: torch.dtype | None = None,
    finite: bool = True,
) -> Any:
    """A module in evaluation mode made of `tensors`, without a copy where they have the `dtype`.

    Raises ValueError beginning with `where` if names or shapes are not those of the module, or, if
    `finite` is asked for, if weights are NaN or infinite, in the file or in the `dtype`.
    """
    with unfilled():
        module = kind(config)
    wanted = module.state_dict()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or extra:
        raise ValueError(
            f"{where}: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(extra)} unknown {extra[:3]}"
        )
    for name, tensor in wanted.items():
        if tensor.shape != tensors[name].shape:
            raise ValueError(
                f"{where}: {name} has shape {tuple(tensors[name].shape)}, "
                f"its configuration asks for {tuple(tensor.shape)}"
            )
        if tensor.is_floating_point() and not tensors[name].is_floating_point():
            raise ValueError(f"{where}: {name} holds {tensors[name].dtype}, not weights")
    if dtype is not None:
        exact = exact_names(module)
        tensors = {
            k: v.to(dtype) if v.is_floating_point() and not k.startswith(exact) else v
            for k, v in tensors.items()
        }
    if finite:
        require_finite_weights(tensors, where)
    module.load_state_dict(tensors, assign=True)
    return module.eval().requires_grad_(False)
