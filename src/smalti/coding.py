"""`smalti encode` and `smalti reconstruct`: images to codes, and back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from smalti.files import check_file, expand
from smalti.progress import say, show


def encode(
    data: Annotated[Positional[str], arg(metavar="DATA")],
    tokenizer: Path,
    out: Path,
    text: str | None = None,
    clean: bool = False,
    crop: Literal["center", "ten"] = "center",
    flip: bool = True,
    holdout: float = 0.1,
    posterior: Literal["sample", "mode"] | None = None,
    half: bool = False,
    json: bool = False,
) -> None:
    """Write images as codes into a token cache, which generators train on.

    One that was cut off goes on with the same command.

    Args:
        data: emoji, shapes, folder:PATH, parquet:PATH or hub:NAME.
        tokenizer: Folder of a trained tokenizer, or of a pipeline.
        out: File to write.
        text: Also keep the features of the captions: t5 is flan-t5-xl, else the hub id or folder of
            another T5.
        clean: Clean the captions as the published text encoders were given them.
        crop: The centre of each image, or ten crops of it.
        flip: Also the mirror image (ten crops always have it).
        holdout: Share of the images marked as held out.
        posterior: Of a KL-VAE: sample keeps means and standard deviations of codes, of which each
            epoch draws anew; mode keeps the means. Default: sample.
        half: Keep continuous codes as float16.
        json: Print what was written on standard output.
    """
    from smalti.data.source import open_source
    from smalti.data.token_cache import TokenCache, is_own
    from smalti.data.transforms import Transform
    from smalti.encoding import encode as run
    from smalti.text.t5 import T5, config_of
    from smalti.train.parallel import best_device

    check_file(out, ".arrow", is_own)
    module = open_tokenizer(tokenizer)
    transform = Transform(module.config.size[0], crop, flip)
    if clean and text is None:
        raise ValueError("--clean is for captions that a text encoder reads: give --text")
    if module.spec.discrete and (posterior or half):
        raise ValueError(
            "--posterior and --half are for tokenizers of continuous codes, "
            f"got one of {module.spec.vocab} discrete codes"
        )
    left = run(
        open_source(data),
        module,
        transform,
        out,
        holdout,
        device=best_device(),
        text=None if text is None else T5(config_of(text, clean)),
        posterior=posterior or "sample",
        half=half,
    )
    cache = TokenCache(out)
    report = {"file": str(out), "images": len(cache), "views": cache.views, **asdict(cache.spec)}
    there = "" if left else ", which were there"
    if json:
        show(report)
    else:
        codes = f"{cache.views} views of {cache.spec.positions} codes each"
        say(f"{out}: {len(cache)} images, {codes}{there}")


def reconstruct(
    tokenizer: Annotated[Positional[Path], arg(metavar="TOKENIZER")],
    images: Annotated[Positional[str], arg(metavar="IMAGES")],
    out: Path = Path("reconstructions.png"),
    n: int = 32,
    json: bool = False,
) -> None:
    """Write images as codes and read them back: originals above, reconstructions below.

    Args:
        tokenizer: Folder of a tokenizer, or of a pipeline.
        images: emoji, shapes, folder:PATH, parquet:PATH, hub:NAME, or one image file.
        out: PNG to write.
        n: How many images.
        json: Print PSNR and codebook usage on standard output.
    """
    import torch

    from smalti.data.loader import Images
    from smalti.data.skipped import tell
    from smalti.data.source import open_source
    from smalti.data.transforms import Transform
    from smalti.eval.reconstruction import reconstruction
    from smalti.pictures import is_own, save_png
    from smalti.recipes.tokenizer import comparison

    if n < 1:
        raise ValueError(f"--n must be at least 1, got {n}")
    check_file(out, ".png", is_own)
    module = open_tokenizer(tokenizer)
    transform = Transform(module.config.size[0])
    if (picture := expand(images)).is_file():
        from smalti.data.decode import decode

        pixels = torch.from_numpy(transform(decode(picture, images), None))[None]
        batches = [{"images": pixels}]
    else:
        source = open_source(images)
        chosen = range(min(n, len(source)))
        batches = list(Images(source, chosen, transform, 1).evaluation(64))
        tell(source)
    device = next(module.parameters()).device
    report = reconstruction(module, batches, device)
    pixels = torch.cat([b["images"] for b in batches])
    save_png(comparison(module, pixels.to(device)), out, {"reconstruction": report})
    if json:
        show({"file": str(out), **report})
    else:
        say(f"{out}: {len(pixels)} images, {report['psnr']:.2f} dB")


def open_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder of its own, or in a pipeline's."""
    from smalti import registry
    from smalti.storage import load_module, tokenizer_folder
    from smalti.train.parallel import best_device

    return load_module(tokenizer_folder(folder), registry.TOKENIZERS, best_device())[0]
