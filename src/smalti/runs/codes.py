"""The token cache that a generator learns from: made of a recipe's pictures, or given."""

from __future__ import annotations

from pathlib import Path

import torch

from smalti.data.maps import with_maps
from smalti.data.open import open_source
from smalti.data.source import Source, require_captions, require_labels
from smalti.data.token_cache import TokenCache
from smalti.files import expand
from smalti.modules import fingerprint
from smalti.progress import say
from smalti.recipes.base import GeneratorRecipe, TextRecipe
from smalti.runs.data import check_codes_of, check_data
from smalti.runs.encode import encode, tidy
from smalti.runs.folder import claim
from smalti.runs.image_coder import Coder, about_map
from smalti.text.encoders import TextEncoder
from smalti.tokenizers.base import ImageTokenizer
from smalti.train.parallel import World, on_main, wait


def open_codes(
    recipe: GeneratorRecipe,
    out: Path,
    tokenizer: ImageTokenizer,
    encoder: TextEncoder | None,
    map: ImageTokenizer | None,
    world: World,
) -> TokenCache:
    """The recipe's token cache; made in the run's folder where the recipe names none."""
    frozen = encoder if encoder is not None and not encoder.learned else None
    path = expand(recipe.codes) if recipe.codes else out / "codes.arrow"
    if not recipe.codes:
        source = open_source(recipe.data.source)  # its mistakes before the run's folder exists
        if encoder is not None:
            require_captions(source)
        elif map is not None:
            with_maps(source, map.map)
        elif not path.exists():  # a run that began before this was asked goes on
            require_labels(source)
        classes = encoder is None and map is None
        on_main(world, lambda: check_data(out, source, recipe.data, classes))
        claim(out, recipe, world, source)
        if world.main and not holds(path, source, map):
            coder = coder_of(recipe, source, tokenizer, frozen, map, world.device)
            encode(coder, path, replace=True)
            if frozen is not None:
                frozen.release()
        elif world.main:
            tidy(path)
    wait(world)
    cache = TokenCache(path)
    cache.require(fingerprint(tokenizer.coder))
    on_main(world, lambda: check_codes_of(out, cache, recipe))
    require_conditions(cache, encoder, map)
    require_wordings(recipe, cache, frozen)
    classes = encoder is None and map is None
    if classes and world.main and recipe.codes and not (cache.labels >= 0).any():
        say(f"{path}: the images of {cache.source} have no labels; all are of one class")
    return cache


def coder_of(
    recipe: GeneratorRecipe,
    source: Source,
    tokenizer: ImageTokenizer,
    text: TextEncoder | None,
    map: ImageTokenizer | None,
    device: torch.device,
) -> Coder:
    """What encodes the recipe's pictures, with features of a frozen text encoder and codes of maps
    if there are any."""
    return Coder(
        source,
        tokenizer,
        recipe.data.transform(tokenizer.size[0]),
        text,
        recipe.data.holdout,
        device=device,
        map=map,
        wordings=isinstance(recipe, TextRecipe) and recipe.wordings,
    )


def require_wordings(
    recipe: GeneratorRecipe, cache: TokenCache, frozen: TextEncoder | None
) -> None:
    """Raise ValueError if a recipe wants several texts of a picture, and the cache has one, or has
    their features alone."""
    if not isinstance(recipe, TextRecipe) or not recipe.wordings:
        return
    if frozen is not None:
        raise ValueError(
            "wordings must be False with a frozen text encoder, whose features of the captions "
            "alone are kept, got True"
        )
    if not cache.wordings:
        raise ValueError(f"{cache.path} holds one text of each picture; wordings must be False")


def require_conditions(
    cache: TokenCache, encoder: TextEncoder | None, map: ImageTokenizer | None
) -> None:
    """Raise ValueError unless a cache has the captions, their features or the maps that are
    read."""
    if encoder is not None:
        cache.require_captions()
        if not encoder.learned:
            cache.require_text(fingerprint(encoder))
    if map is not None:
        cache.require_map(map.map, fingerprint(map.coder))


def holds(path: Path, source: Source, map: ImageTokenizer | None = None) -> bool:
    """Whether the codes of a run are there, and of what its source and its maps hold now."""
    if not path.exists():
        return False
    cache = TokenCache(path)
    same = cache.source_fingerprint == source.fingerprint()
    return same and cache.map == about_map(map, source)
