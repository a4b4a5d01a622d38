"""`smalti encode` and `smalti reconstruct`: images to codes, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from smalti.cli.placing import so_many
from smalti.cli.running import Device
from smalti.config import read_json
from smalti.files import check_file, expand
from smalti.progress import say, show

if TYPE_CHECKING:  # they import torch
    from torch import Tensor

    from smalti.data.source import Source
    from smalti.models.eye import Eye
    from smalti.runs.image_coder import Coder
    from smalti.tokenizers.base import ImageTokenizer


@dataclass(frozen=True)
class Contents:
    """What a token cache holds of the images."""

    text: str | None = None
    """Also keep the features of the captions: t5 is flan-t5-xl, clip OpenCLIP's ViT-H, clip:MODEL
    the hub id or folder of another CLIP, and any other word that of another T5."""
    clean: bool = False
    """Clean the captions as the published text encoders were given them."""
    crop: Literal["center", "ten"] = "center"
    """The centre of each image, or ten crops of it."""
    flip: bool = True
    """Also the mirror image (ten crops always have it)."""
    holdout: float = 0.1
    """Share of the images marked as held out."""
    posterior: Literal["sample", "mode"] | None = None
    """Of a KL-VAE: sample keeps means and standard deviations of codes, of which each
    epoch draws anew; mode keeps the means. Default: sample."""
    half: bool = False
    """Keep continuous codes as float16."""
    map: Path | None = None
    """Also keep codes of the images' maps: folder of a tokenizer of depth, segmentation or
    edges."""


USUAL = Contents()


def encode(
    data: Annotated[Positional[str], arg(metavar="DATA")],
    tokenizer: Path,
    out: Path,
    eye: str = "",
    contents: Annotated[Contents, arg(name="")] = USUAL,
    device: Device = "auto",
    json: bool = False,
) -> None:
    """Write images as codes into a token cache, which generators train on, or documents of text and
    pictures into one of documents.

    One that was cut off goes on with the same command.

    Args:
        data: A folder of pictures, .parquet files ('data/train-*.parquet'), emoji, shapes or
            hub:NAME; '?label=COLUMN&text=COLUMN' behind it chooses columns. Or documents:
            captioned:SOURCE, qa:FILE.jsonl, shapes-all, docs:FILE.arrow, several joined by '+'.
        tokenizer: Folder of a trained tokenizer, or of a pipeline, or a hub id.
        out: File to write.
        eye: Of documents: what sees the pictures that are only read, for models that read them in
            another form than they draw them. Towers, a folder or a hub id, or the folder of an eye,
            or of a pipeline that has one.
        device: Where it is computed: auto (the best there is), cpu, cuda, cuda:1 or mps.
        json: Print what was written on standard output.
    """
    from smalti.data.documents import is_documents
    from smalti.data.token_file import is_own

    check_file(out, ".arrow", is_own)
    module = open_tokenizer(tokenizer, device)
    if is_documents(data):
        report, said = encode_documents(data, module, out, contents, open_eye(eye, device))
    elif eye:
        raise ValueError(f"--eye is for documents, got images: {data}")
    else:
        report, said = encode_images(data, module, out, contents, tokenizer)
    if json:
        show({"file": str(out), **report, **asdict(module.spec)})
    else:
        say(f"{out}: {said}")


Encoded = tuple[dict[str, Any], str]
"""What was written, for programs and in words."""


def encode_images(
    data: str, tokenizer: ImageTokenizer, out: Path, contents: Contents, folder: Path
) -> Encoded:
    """Encode the images of a source by the tokenizer of a folder."""
    from smalti.data.token_cache import TokenCache
    from smalti.runs.encode import encode as run
    from smalti.runs.run import train_command

    there = "" if run(coder_of(data, tokenizer, contents), out) else ", which were there"
    cache = TokenCache(out)
    codes = f"{cache.views} views of {cache.spec.positions} codes each{there}"
    command = train_command(tokenizer.coder.config, folder, f" --codes {quote(str(out))}")
    next_one = "" if contents.text else f"; next: {command}"
    report = {"images": len(cache), "views": cache.views}
    return report, f"{so_many(len(cache))}, {codes}{next_one}"


def encode_documents(
    data: str, tokenizer: ImageTokenizer, out: Path, contents: Contents, eye: Eye | None
) -> Encoded:
    """Encode the pictures of documents by a tokenizer, and those that are only read by an eye."""
    from smalti.data.document_file import DocumentCache
    from smalti.data.documents import open_documents
    from smalti.runs.documents import encode_documents as run

    check_contents(contents)
    left = run(open_documents(data), tokenizer, out, contents.holdout, eye=eye)
    cache = DocumentCache(out)
    tasks = cache.counts()
    listed = ", ".join(f"{count} {task}" for task, count in tasks.items())
    words = f"{len(cache)} documents ({listed}), pictures of {cache.spec.positions} codes each"
    return {"documents": len(cache), "tasks": tasks}, words + ("" if left else ", which were there")


def check_contents(contents: Contents) -> None:
    """Raise ValueError for what only a token cache of images can hold."""
    usual = asdict(replace(USUAL, holdout=contents.holdout))
    for name, value in asdict(contents).items():
        if value != usual[name]:
            option = f"--no-{name}" if value is False else f"--{name}"
            raise ValueError(
                f"{option} is for token caches of images: pictures of documents are the middle of "
                "each, never mirrored, as means if codes are continuous"
            )


def coder_of(data: str, tokenizer: ImageTokenizer, contents: Contents) -> Coder:
    """What encodes the images of a source. Raises ValueError if the tokenizer, or an encoder of
    captions, cannot give such contents."""
    from smalti.data.maps import alone
    from smalti.data.open import open_source
    from smalti.data.transforms import Transform
    from smalti.loading import load_tokenizer
    from smalti.runs.image_coder import Coder
    from smalti.text.frozen import frozen
    from smalti.tokenizers.base import side_of

    text = contents.text
    if contents.crop == "ten" and not contents.flip:
        raise ValueError("--no-flip is not for --crop ten, which always has mirror images")
    if contents.posterior and tokenizer.spec.channels and not tokenizer.distributions:
        raise ValueError(
            "--posterior is for tokenizers that give distributions; this one gives codes alone"
        )
    if contents.clean and text is None:
        raise ValueError("--clean is for captions that a text encoder reads: give --text")
    if tokenizer.spec.discrete and (contents.posterior or contents.half):
        raise ValueError(
            "--posterior and --half are for tokenizers of continuous codes, "
            f"got one of codes {tokenizer.spec.words}"
        )
    source = alone(open_source(data), tokenizer.map)
    device = next(tokenizer.parameters()).device
    map = None if contents.map is None else load_tokenizer(contents.map, device)
    return Coder(
        source,
        tokenizer,
        Transform(side_of(tokenizer), contents.crop, contents.flip),
        None if text is None else frozen(text, contents.clean),
        contents.holdout,
        contents.posterior or "sample",
        contents.half,
        device,
        map,
    )


def reconstruct(
    tokenizer: Annotated[Positional[Path], arg(metavar="TOKENIZER")],
    images: Annotated[Positional[str], arg(metavar="IMAGES")],
    out: Path = Path("reconstructions.png"),
    n: int = 32,
    depth: int | None = None,
    text: str | None = None,
    device: Device = "auto",
    json: bool = False,
) -> None:
    """Write images as codes and read them back: originals above, reconstructions below.

    Of many images those that are shown are spread over all of them. Of the images that the
    tokenizer was trained on only the held-out ones are taken.

    Args:
        tokenizer: Folder of a tokenizer, or of a pipeline, or a hub id.
        images: A folder of pictures, .parquet files, emoji, shapes, hub:NAME, or one image file.
            With @held or @train behind a source, the images that training held out, or the others.
        out: PNG to write.
        n: Number of images, at most.
        depth: Read back the first so many codes of each position, or scales, alone: a coarser
            picture; default: all.
        text: What the images show, of a tokenizer whose decoder reads a text of each; default: the
            captions of the images.
        device: Where it is computed: auto (the best there is), cpu, cuda, cuda:1 or mps.
        json: Print PSNR and codebook usage on standard output.
    """
    import torch

    from smalti.eval.reconstruction import reconstruction
    from smalti.pictures import is_own, save_png
    from smalti.runs.tokenizer import comparison
    from smalti.tokenizers.base import check_levels, side_of

    if n < 1:
        raise ValueError(f"--n must be at least 1, got {n}")
    check_file(out, ".png", is_own)
    module = open_tokenizer(tokenizer, device)
    if depth is not None:
        check_levels(depth, module.levels)
        depth = None if module.levels == 1 else depth
    batches, captions, part = shown(images, tokenizer, side_of(module), n)
    texts = read_texts(module, captions, text, images)
    place = next(module.parameters()).device
    report = reconstruction(module, batches, place, depth, texts)
    pixels = torch.cat([b["images"] for b in batches])
    save_png(comparison(module, pixels.to(place), depth, texts), out, {"reconstruction": report})
    if json:
        show({"file": str(out), **report})
    else:
        say(f"{out}: {so_many(len(pixels))}{part}, {report['psnr']:.2f} dB")


def read_texts(
    tokenizer: ImageTokenizer, captions: list[str], text: str | None, images: str
) -> list[str] | None:
    """What the decoder of a tokenizer reads of pictures: one text for all, or the captions of each;
    None if it reads none. Raises ValueError if a text is missing, and for one that is not read."""
    if not tokenizer.told:
        if text is not None:
            raise ValueError(f"--text is for tokenizers whose decoder reads texts, got {text!r}")
        return None
    texts = captions if text is None else [text] * len(captions)
    if missing := sum(not one for one in texts):
        raise ValueError(
            f"the decoder of this tokenizer reads a text of each image; {missing} of {len(texts)} "
            f"of {images} have no caption: give --text"
        )
    return texts


def shown(
    images: str, tokenizer: Path, size: int, n: int
) -> tuple[list[dict[str, Tensor]], list[str], str]:
    """Batches of at most n images of a source, or of one file, in squares of `size` pixels, their
    captions, and in words what part of it they are to the tokenizer in this folder, or of this
    name."""
    import torch

    from smalti.data.loader import Images
    from smalti.data.open import is_local
    from smalti.data.skipped import tell
    from smalti.data.transforms import Transform
    from smalti.runs.tokenizer import spread

    transform = Transform(size)
    if (picture := expand(images)).is_file() and not is_local(images):
        from smalti.data.decode import decode

        pixels = torch.from_numpy(transform(decode(picture, images), None))[None]
        return [{"images": pixels}], [""], ""
    source, chosen, part = chosen_part(images, tokenizer)
    loader = Images(source, spread(chosen, n), transform, 1)
    batches = list(loader.evaluation(64))
    tell(source)
    return batches, loader.captions(), part


def chosen_part(images: str, tokenizer: Path) -> tuple[Source, Sequence[int], str]:
    """The images that a source's name stands for: the source, their indices, and in words what
    part of it they are to the tokenizer in this folder, or of this name. Raises ValueError if they
    are none."""
    from smalti.data.maps import alone
    from smalti.data.open import open_source
    from smalti.data.source import split
    from smalti.interop.starters import find
    from smalti.modules import tokenizer_folder
    from smalti.recipes.base import DataConfig

    folder = expand(tokenizer)
    if not folder.is_dir():
        folder = find(str(tokenizer)) or folder
    files = (folder / "pipeline.json", tokenizer_folder(folder) / "config.json")
    about = {k: v for file in files if file.is_file() for k, v in read_json(file).items()}
    name, at, part = images.rpartition("@")
    if not at or part not in ("held", "train"):
        name, part = images, ""
    source = alone(open_source(name), about.get("config", {}).get("map", ""))
    trained_on = _place(str(about.get("source"))) == _place(source.name)
    if not part and not trained_on:
        return source, range(len(source)), ""
    share = about["holdout"] if trained_on and "holdout" in about else DataConfig().holdout
    train, held = split(source, share)
    if not part and not held:
        return source, train, ", which training saw: it held none out"
    chosen = train if part == "train" else held
    if not chosen:
        raise ValueError(f"{images} has no images: {share} of {len(source)} are held out")
    words = "seen in training" if part == "train" else "held out in training"
    return source, chosen, f" of the {len(chosen)} {words}" if trained_on else ""


def _place(source: str) -> str:
    """The name of a source, whose path may be spelled in several ways."""
    from smalti.data.styles import WHOLE

    kind, colon, path = source.partition(":")
    if kind == "styles" and Path(path).name == WHOLE:
        return kind
    return f"{kind}:{Path(path).resolve()}" if colon and Path(path).exists() else source


def open_tokenizer(folder: Path, device: str = "auto") -> ImageTokenizer:
    """The tokenizer in a folder of its own, in a pipeline's, or of a hub id."""
    from smalti.loading import load_tokenizer

    return load_tokenizer(folder, device)


def open_eye(folder: str, device: str = "auto") -> Eye | None:
    """The eye of a folder or a hub id; None where none is named."""
    from smalti.loading import load_eye

    return load_eye(folder, device=device) if folder else None
