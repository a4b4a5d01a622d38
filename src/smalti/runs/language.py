"""A recipe of a language model and a folder in, a language model with its text tokenizer out: one
that writes texts, or one of sentences that tell captions apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from smalti.data.caption_pairs import CaptionPairs
from smalti.data.document_batches import DocumentBatches, Packing
from smalti.data.documents import Documents
from smalti.data.open import open_source
from smalti.data.source import Source, split, wordings
from smalti.eval.towers import ranks
from smalti.models.language import Language
from smalti.models.llm2clip import Sentences
from smalti.models.text_writer import TextWriter
from smalti.models.towers import ids_of
from smalti.modules import check_module, fingerprint
from smalti.pipeline.conversation import text_part
from smalti.progress import say
from smalti.recipes.base import LanguageRecipe, SentencesRecipe
from smalti.runs.data import check_data, check_noted
from smalti.runs.finetune import require_same, share
from smalti.runs.folder import Report, claim, finish, without_held_out
from smalti.runs.speaker import Speaker, load_language, save_language
from smalti.runs.towers import first_of
from smalti.runs.words import bytes_written, open_texts, texts_of, words_of_run
from smalti.sampling.noise import Noise
from smalti.text.sequence import Document, Wrapping
from smalti.text.words import Words
from smalti.train.joint import rows_in
from smalti.train.lora import adapt, merge
from smalti.train.parallel import World, autocast, on_main
from smalti.train.trainer import LiveLine, Trainer

PLACE = "language"
"""The folder in that of a run."""


def train_language(recipe: LanguageRecipe, out: Path, world: World, note: str = "") -> Report:
    """Train a language model to write texts; `out`/language is what others take as --language."""
    on_main(world, lambda: check_module(out / PLACE))
    documents = open_texts(recipe.data.source)
    texts = documents.fingerprint()
    on_main(world, lambda: check_noted(out, "texts", texts, documents.name, recipe.data))
    chosen, held = split(documents, recipe.data.holdout)
    held = held or without_held_out(chosen, world)
    speaker, begun = begin(recipe, out, world, texts_of(documents, chosen))
    model = TextWriter(speaker.writer)
    model.requires_grad_(True)
    reader = Texts(documents, speaker.words)
    training, measuring = (texts_in(recipe, reader, some, world) for some in (chosen, held))
    look = Look(model, reader, measuring, recipe, world)
    line = LiveLine(PLACE, ("loss",), "positions", recipe.row)
    objective = recipe.objective.objective(model)
    trainer = Trainer(objective, training, recipe.train, out, world, line, look.evaluate)
    noted = {"words": speaker.words.fingerprint(), "texts": texts}
    claim(out, recipe, world, None, fingerprint=begun, **noted)
    if note and world.main:
        say(note)
    trainer.fit()
    with trainer.averaged():
        if not world.main:
            return {}
        objective.eval()
        measured = {f"held_out_{k}": v for k, v in look.evaluate().items()}
        told = {"source": documents.name, "holdout": recipe.data.holdout}
        save_language(speaker, out / PLACE, **told)
    return finish(out, recipe, measured)


def train_sentences(recipe: SentencesRecipe, out: Path, world: World, note: str = "") -> Report:
    """Train a language model to tell captions apart; `out`/language is what LLM2CLIP reads by."""
    on_main(world, lambda: check_module(out / PLACE))
    source = open_source(recipe.data.source)
    on_main(world, lambda: check_data(out, source, recipe.data, classes=False))
    chosen, held = split(source, recipe.data.holdout)
    held = held or without_held_out(chosen, world)
    texts = [text for i in chosen for text in wordings(source, i)]
    speaker, begun = begin(recipe, out, world, texts, source)
    model, words = speaker.reader, speaker.words
    model.config = replace(model.config, causal=recipe.causal, pooling=recipe.pooling)
    torch.manual_seed(recipe.train.seed)
    if recipe.lora.rank:
        adapt(model.language, recipe.lora)
    else:
        model.requires_grad_(True)
    training, measuring = (pairs(recipe, source, words, some, world) for some in (chosen, held))
    look = Captions(model, measuring, recipe, world)
    line = LiveLine(PLACE, ("loss", "retrieval"), "pairs")
    objective = recipe.objective.objective(model)
    trainer = Trainer(objective, training, recipe.train, out, world, line, look.evaluate)
    if world.main:
        say(note or share(model))
    with trainer.averaged():
        before = look.evaluate() if world.main else {}
    claim(out, recipe, world, source, fingerprint=begun, words=words.fingerprint())
    trainer.fit()
    with trainer.averaged():
        if not world.main:
            return {}
        objective.eval()
        measured = {f"held_out_{k}": v for k, v in look.evaluate().items()}
        measured |= {f"held_out_{k}_before": v for k, v in before.items()}
        merge(model)
        told = {"source": source.name, "holdout": recipe.data.holdout}
        save_language(speaker._replace(module=model), out / PLACE, **told)
    return finish(out, recipe, measured, source)


def begin(
    recipe: LanguageRecipe,
    out: Path,
    world: World,
    texts: Sequence[str],
    source: Source | None = None,
) -> tuple[Speaker, str]:
    """A new language model with its text tokenizer, of texts of a `source` of pictures if there is
    one, or the one that the run begins from, with its fingerprint.

    Raises ValueError if a run in `out` began from another, or for a text tokenizer without a mark
    for the end of a text.
    """
    if recipe.init:
        if recipe.words:
            raise ValueError(
                f"the language model of --init {recipe.init} keeps its text tokenizer: leave "
                "--words out"
            )
        speaker = load_language(recipe.init, "cpu")
        mark = fingerprint(speaker.module)
        require_same(out, recipe.init, mark)
        return speaker, mark
    words = words_of_run(
        recipe.words,
        out,
        world,
        lambda: texts,
        recipe.vocab,
        lambda: claim(out, recipe, world, source),
    )
    if words.stop is None:
        raise ValueError(f"{recipe.words} has no mark for the end of a text")
    torch.manual_seed(recipe.train.seed)
    return Speaker(Language(replace(recipe.model, vocab=words.vocab)), words), ""


# -- texts that are written


@dataclass(frozen=True)
class Texts:
    """Documents without their pictures, as rows take them."""

    documents: Documents
    words: Words

    def __call__(self, i: int, chance: float = 0.0) -> Document:
        """The texts of a document between the ids that begin and end one, all learned."""
        start, stop = self.words.start, self.words.stop
        assert stop is not None  # of `begin`
        texts = enumerate(self.documents.texts(i))
        parts = [text_part(self.words.read(text, begins=n == 0), True) for n, text in texts]
        return [*([] if start is None else [text_part([start])]), *parts, text_part([stop], True)]


def texts_in(
    recipe: LanguageRecipe, reader: Texts, chosen: Sequence[int], world: World
) -> DocumentBatches:
    """Rows of texts."""
    sizes = (recipe.row, recipe.train.batch, reader.words.pad, recipe.train.seed)
    packing = Packing(Wrapping(), *sizes, world.rank, world.size)
    lengths = [packing.wrapping.size(reader(i)) for i in chosen]
    return DocumentBatches(chosen, lengths, reader, packing, reader.documents.key)


@dataclass(frozen=True)
class Look:
    """What is seen of a language model that writes."""

    model: TextWriter
    reader: Texts
    batches: DocumentBatches
    recipe: LanguageRecipe
    world: World

    @torch.inference_mode()
    def evaluate(self) -> dict[str, float]:
        """How likely held-out texts are: nats of an id, and bits of a byte."""
        nats, count, device = 0.0, 0, self.world.device
        with autocast(device, self.recipe.train.precision):
            for batch in self.batches.evaluation(self.recipe.train.batch):
                rows = rows_in({k: v.to(device) for k, v in batch.items()})
                term = self.model.terms(rows, Noise.request(0, len(rows.ids)))["text"]
                nats += float((term.values * term.where).sum())
                count += int(term.where.sum())
        written = bytes_written(self.batches.documents(), self.reader.words)
        bits = nats / torch.log(torch.tensor(2.0)).item()
        return {"text": nats / count, "bits_per_byte": bits / written}


# -- captions that are told apart


def pairs(
    recipe: SentencesRecipe, source: Source, words: Words, chosen: Sequence[int], world: World
) -> CaptionPairs:
    """Batches of captions and other texts of their pictures."""

    def tokenize(texts: Sequence[str]) -> torch.Tensor:
        assert words.stop is not None  # of `begin`
        return ids_of(texts, words, recipe.length, (), words.stop, words.pad)

    train = recipe.train
    return CaptionPairs(source, chosen, tokenize, train.batch, train.seed, world.rank, world.size)


@dataclass(frozen=True)
class Captions:
    """What is seen of a language model of sentences."""

    model: Sentences
    held_out: CaptionPairs
    recipe: SentencesRecipe
    world: World

    @torch.inference_mode()
    def evaluate(self) -> dict[str, float]:
        """The share of held-out captions to which, of all of them, the nearest is the one that says
        the same as another text does, and back."""
        device, found = self.world.device, list[list[torch.Tensor]]()
        with autocast(device, self.recipe.train.precision):
            for batch in self.held_out.evaluation(self.recipe.train.batch):
                ids, others = (batch[f"{name}_tokens"].to(device) for name in ("text", "other"))
                found.append([self.model.read(others), self.model.read(ids), ids])
        others, captions, ids = (torch.cat(part) for part in zip(*found, strict=True))
        _, first, own = first_of(ids)
        to_caption, to_other = ranks(others.cpu(), captions[first].cpu(), own.cpu())
        found_by = {"other_to_caption_1": to_caption, "caption_to_other_1": to_other}
        return {name: float((rank < 1).float().mean()) for name, rank in found_by.items()}
