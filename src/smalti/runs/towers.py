"""A recipe of towers and a folder in, towers that match pictures and texts out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from smalti import modules
from smalti.data.loader import Images
from smalti.data.open import open_source
from smalti.data.skipped import tell
from smalti.data.source import Source, credited, require_captions, split
from smalti.data.transforms import to_float
from smalti.eval.towers import ranks
from smalti.loading import load_towers, save_towers
from smalti.models.towers import Matcher, Towers, TowersConfig
from smalti.modules import check_module, fingerprint
from smalti.pictures import named_grid, save_png, to_pil
from smalti.progress import say
from smalti.recipes.base import TowersRecipe
from smalti.runs.data import check_data
from smalti.runs.finetune import learn, require_same
from smalti.runs.folder import Report, claim, finish, without_held_out
from smalti.runs.speaker import load_language
from smalti.runs.tokenizer import spread
from smalti.runs.words import words_of_run
from smalti.text.words import Words
from smalti.train.pairs import equal, sigmoid_loss, softmax_loss
from smalti.train.parallel import World, autocast, on_main
from smalti.train.trainer import LiveLine, Trainer


@dataclass(frozen=True)
class Look:
    """What is seen of towers, on the way and in the end."""

    matcher: Matcher
    held_out: Images
    recipe: TowersRecipe
    world: World

    @torch.inference_mode()
    def features(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Unit features of held-out pictures (N, E) and of their texts, and ids of the texts."""
        towers, device, found = self.matcher.towers, self.world.device, list[list[torch.Tensor]]()
        with autocast(device, self.recipe.train.precision):
            for batch in self.held_out.evaluation(self.recipe.train.batch):
                ids, images = batch["text_tokens"], to_float(batch["images"].to(device))
                found.append([towers.see(images), towers.read(ids.to(device)), ids.to(device)])
        pictures, texts, ids = (torch.cat(part) for part in zip(*found, strict=True))
        return pictures, texts, ids

    @torch.inference_mode()
    def evaluate(self) -> dict[str, float]:
        """The loss of held-out pairs, in batches as those of training, and how many pictures find
        their text and texts a picture among all that are held out."""
        pictures, texts, ids = self.features()
        batch, loss = self.recipe.train.batch, 0.0
        measure = softmax_loss if self.recipe.objective.loss == "softmax" else sigmoid_loss
        parts = (t.split(batch) for t in (pictures, texts, ids))
        for some, words, marks in zip(*parts, strict=True):
            logits = self.matcher.towers.logits(some, words)
            loss += float(measure(logits, equal(marks))) * len(some) / len(pictures)
        _, first, own = first_of(ids)
        to_text, to_image = ranks(pictures.cpu(), texts[first].cpu(), own.cpu())
        found = {"image_to_text_1": to_text, "text_to_image_1": to_image}
        return {"loss": loss, **{k: float((v < 1).float().mean()) for k, v in found.items()}}

    def preview(self, path: Path) -> None:
        """Write held-out pictures, each under the text that is nearest to it."""
        pictures, texts, ids = self.features()
        some = spread(range(len(pictures)), 25)
        source, indices = self.held_out.source, self.held_out.indices
        nearest = (pictures[some] @ texts.T).argmax(1).tolist()
        names = [source.caption(int(indices[i])) for i in nearest]
        batches = self.held_out.evaluation(self.recipe.train.batch)
        images = torch.cat([batch["images"] for batch in batches])[some]
        save_png(named_grid(to_pil(images), names, max(1, 96 // images.shape[-1])), path, {})


def first_of(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Different texts of ids (N, L): their ids (T, L), where each stands first, (T,), and which of
    them each text is, (N,)."""
    every, own = torch.unique(ids, dim=0, return_inverse=True)
    first = torch.full((len(every),), len(ids), device=ids.device)
    first.scatter_reduce_(0, own, torch.arange(len(ids), device=ids.device), "amin")
    return every, first, own


def train_towers(recipe: TowersRecipe, out: Path, world: World, note: str = "") -> Report:
    """Train towers; `out`/towers is what `smalti eval` takes."""
    source = open_source(recipe.data.source)
    on_main(world, lambda: check_data(out, source, recipe.data, classes=False))
    on_main(world, lambda: check_module(out / "towers"))
    on_main(world, lambda: require_captions(source))
    known = tell(source) if world.main else 0
    chosen, held = (captioned(source, some) for some in split(source, recipe.data.holdout))
    if (pairs := min(recipe.train.batch, len(chosen))) < 2:
        raise ValueError(
            "a picture learns its text from others beside it: a step needs 2 pairs or more, got "
            f"{pairs} ({len(chosen)} pictures to learn from, --train.batch {recipe.train.batch})"
        )
    held = held or without_held_out(chosen, world)
    matcher, begun = matcher_of(recipe, out, source, chosen, world)
    objective = recipe.objective.objective(matcher.towers)
    if world.main:
        say_notes(matcher, source, [*chosen, *held], note)
    look = Look(matcher, pictures(recipe, matcher, source, held), recipe, world)
    training = pictures(recipe, matcher, source, chosen, world)
    line = LiveLine("towers", ("loss", "retrieval"))
    trainer = Trainer(
        objective, training, recipe.train, out, world, line, look.evaluate, look.preview
    )
    claim(out, recipe, world, source, fingerprint=begun, words=matcher.words.fingerprint())
    trainer.fit()
    with trainer.averaged():
        if not world.main:
            return {}
        objective.eval()
        measured = {f"held_out_{k}": v for k, v in look.evaluate().items()}
        told = {"source": source.name, "holdout": recipe.data.holdout}
        art = credited(source.credit, matcher.info.get("credit"))
        save_towers(matcher, out / "towers", **told | ({"credit": art} if art else {}))
    tell(source, known)
    return finish(out, recipe, measured, source)


def captioned(source: Source, indices: Sequence[int]) -> list[int]:
    """Those of the pictures that have a caption."""
    return [i for i in indices if source.caption(i)]


def pictures(
    recipe: TowersRecipe,
    matcher: Matcher,
    source: Source,
    indices: Sequence[int],
    world: World | None = None,
) -> Images:
    """Batches of pictures and the ids of their captions; those of training for a `world`."""
    transform = recipe.data.transform(matcher.towers.config.size)
    rank, size = (world.rank, world.size) if world else (0, 1)
    if world is None:
        transform = replace(transform, crop="center")
    images = Images(source, indices, transform, recipe.train.batch, recipe.train.seed, rank, size)
    images.tokenize = matcher.ids
    return images


def matcher_of(
    recipe: TowersRecipe, out: Path, source: Source, chosen: Sequence[int], world: World
) -> tuple[Matcher, str]:
    """New towers with their text tokenizer, or those that the run begins from, with their
    fingerprint.

    Raises ValueError if a run in `out` began from others.
    """
    if recipe.init:
        if recipe.words:
            raise ValueError(
                f"towers of --init {recipe.init} keep their text tokenizer: leave --words out"
            )
        if recipe.language:
            raise ValueError(
                f"towers of --init {recipe.init} read as they do: leave --language out"
            )
        matcher = load_towers(recipe.init)
        mark = fingerprint(matcher.towers)
        require_same(out, recipe.init, mark)
        learn(matcher.towers)
        return matcher, mark
    if recipe.language:
        return read_by(recipe, out)
    words = words_of_run(
        recipe.words,
        out,
        world,
        lambda: [source.caption(i).lower() for i in chosen],
        recipe.vocab,
        lambda: claim(out, recipe, world, source),
    )
    return fresh(recipe, recipe.model.fitted(words), words), ""


def fresh(recipe: TowersRecipe, config: TowersConfig, words: Words) -> Matcher:
    """New towers."""
    torch.manual_seed(recipe.train.seed)
    towers: Towers = modules.module_of(config, modules.TOWERS)
    learn(towers)
    return Matcher(towers, words)


def read_by(recipe: TowersRecipe, out: Path) -> tuple[Matcher, str]:
    """New towers that read by the recipe's language model, with its text tokenizer, and the
    fingerprint of that model."""
    if recipe.words:
        raise ValueError(
            f"the language model of {recipe.language} keeps its text tokenizer: leave --words out"
        )
    speaker = load_language(recipe.language)
    mark = fingerprint(speaker.module)
    require_same(out, recipe.language, mark)
    config = recipe.model.reading_by(speaker.reader.config).fitted(speaker.words)
    matcher = fresh(recipe, config, speaker.words)
    matcher.towers.take(speaker.reader)
    return matcher, mark


def say_notes(matcher: Matcher, source: Source, used: Sequence[int], note: str) -> None:
    """Say what is to be known once the work begins: pictures without captions, and captions that
    are cut."""
    if note:
        say(note)
    if bare := len(source) - len(used):
        say(f"{bare} of {len(source)} pictures have no caption and are left out")
    texts = dict.fromkeys(source.caption(i) for i in used)
    if cut := sum(not matcher.fits(text) for text in texts):
        length = matcher.towers.config.length
        say(
            f"{cut} of {len(texts)} captions are longer than --model.length {length} ids: what is "
            "behind is not read"
        )
