"""A recipe of text and pictures and a folder in, a trained pipeline out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from smalti import modules
from smalti.data.document_batches import DocumentBatches, Packing
from smalti.data.document_file import DocumentCache
from smalti.data.documents import Piece, credit_of, open_documents
from smalti.data.source import credited
from smalti.files import expand
from smalti.loading import load_eye, load_tokenizer
from smalti.models.eye import Eye
from smalti.models.unified import Marks, Unified
from smalti.modules import coder, fingerprint
from smalti.pictures import named_grid, save_png
from smalti.pipeline.conversation import (
    End,
    Mark,
    picture_part,
    seen_part,
    spoken,
    text_part,
)
from smalti.pipeline.facts import Json
from smalti.pipeline.folders import check_pipeline
from smalti.pipeline.unified import Shown, UnifiedPipeline, Wish
from smalti.progress import say
from smalti.recipes.base import UnifiedRecipe
from smalti.runs.data import check_noted
from smalti.runs.documents import encode_documents
from smalti.runs.finetune import learn, open_unified
from smalti.runs.folder import Report, claim, finish, without_held_out
from smalti.runs.speaker import Speaker, load_language
from smalti.runs.tokenizer import spread
from smalti.runs.words import bytes_written, texts_of, words_of_run
from smalti.sampling.noise import Noise
from smalti.text.sequence import Document, Part
from smalti.text.words import STOPS, Words
from smalti.tokenizers.base import ImageTokenizer
from smalti.train.joint import rows_in
from smalti.train.parallel import World, autocast, on_main, wait
from smalti.train.trainer import LiveLine, Trainer

KEPT = 1 << 16
"""Documents that stay in memory as ids and codes."""


class Reader:
    """Documents of a file as a model takes them."""

    def __init__(self, cache: DocumentCache, pipeline: UnifiedPipeline, share: float) -> None:
        self.cache, self.share = cache, share
        self.model, self.words, self.phrases = pipeline.model, pipeline.words, pipeline.phrases
        self.document = lru_cache(maxsize=KEPT)(self._document)

    def _document(self, i: int) -> list[Part]:
        """A document between the ids that begin and end one."""
        return wrapped(spoken(self.cache.document(i), self.phrases), self.model, self.words)

    def length(self, i: int) -> int:
        """Positions of a document."""
        return self.model.wrapping.size(self.document(i))

    def __call__(self, i: int, chance: float) -> Document:
        """A document that, where `chance` is below a share and it ends with a picture, has nothing
        before that; below twice the share, no text. It stays whole where what stands in the place
        of that is longer, as rows are planned for whole documents."""
        document = self.document(i)
        *whole, stop = document
        if chance >= 2 * self.share or whole[-1].spec is None:
            return document
        if chance < self.share:
            less = [*self.model.nothing(whole), stop]
        elif any(part.spec is not None for part in whole[:-1]):
            less = [*self.model.pictures(whole), stop]
        else:
            return document
        size = self.model.wrapping.size
        return less if size(less) <= size(document) else document


def wrapped(document: Sequence[Piece | Mark], model: Unified, words: Words) -> list[Part]:
    """A document of texts and codes between the ids that begin and end one. Pictures that are only
    read stand in it as what the eye sees, where the model has one."""
    start, (stop, *_) = model.marks.start, model.marks.stops
    parts = [] if start is None else [text_part([start])]
    for i, piece in enumerate(document):
        if isinstance(piece, Mark):
            parts.append(text_part([words.id(piece)], isinstance(piece, End)))
        elif piece.codes is None:
            parts.append(text_part(words.read(piece.text, begins=i == 0), piece.learned))
        elif model.sight is not None and not piece.learned:
            features = piece.features if model.config.drawing else piece.codes
            assert features is not None  # of `DocumentCache.require`
            parts.append(seen_part(features, model.sight.spec))
        else:
            parts.append(picture_part(piece.codes, model.spec, piece.learned))
    return [*parts, text_part([stop], True)]


@dataclass(frozen=True)
class Look:
    """What is seen of a model, on the way and in the end."""

    pipeline: UnifiedPipeline
    reader: Reader
    held: Sequence[int]
    batches: DocumentBatches
    """Those that are held out."""
    recipe: UnifiedRecipe
    world: World

    @torch.inference_mode()
    def evaluate(self) -> dict[str, float]:
        """How likely held-out documents are: nats or errors of each position that counts, and bits
        of text for each byte of it."""
        sums, counts = dict[str, float](), dict[str, float]()
        model, device = self.pipeline.model, self.world.device
        with autocast(device, self.recipe.train.precision):
            for batch in self.batches.evaluation(self.recipe.train.batch):
                rows = rows_in({k: v.to(device) for k, v in batch.items()})
                seeds = batch["shuffle"].to(device)
                terms = model.terms(rows, Noise(seeds, torch.zeros_like(seeds)))
                for name, term in terms.items():
                    sums[name] = sums.get(name, 0.0) + float((term.values * term.where).sum())
                    counts[name] = counts.get(name, 0.0) + float(term.where.sum())
        found = {name: sums[name] / counts[name] for name in sums if counts[name]}
        written = bytes_written(self.batches.documents(), self.pipeline.words)
        if written:
            found["bits_per_byte"] = sums["text"] / written / torch.log(torch.tensor(2.0)).item()
        return found

    def preview(self, path: Path) -> None:
        """Draw pictures for held-out documents that end with one."""
        documents = [self.reader.document(i)[:-1] for i in self.held]
        asked = [document for document in documents if document[-1].spec is not None]
        some = [asked[i] for i in spread(range(len(asked)), 16)]
        if not some:
            return
        found = dict[int, Shown]()
        for event in self.pipeline.events([d[:-1] for d in some], Wish("picture", False, 1)):
            if isinstance(event, Shown) and event.whole:
                found[event.row] = event
        images = [found[i].image for i in range(len(some))]
        names = [self.words_of(document) for document in some]
        save_png(named_grid(images, names, 2 if images[0].width <= 64 else 1), path, {})

    def words_of(self, document: Document) -> str:
        """The texts of a document."""
        texts = [part.content.tolist() for part in document if part.spec is None]
        return " ".join(self.pipeline.words.write(ids) for ids in texts).strip()


def train_unified(recipe: UnifiedRecipe, out: Path, world: World, note: str = "") -> Report:
    """Train a model of text and pictures; `out`/pipeline is what `smalti sample` and `ask` take."""
    on_main(world, lambda: check_pipeline(out / "pipeline"))
    begun = open_unified(recipe, out, world.device) if recipe.init else None
    check_words(recipe, begun)
    tokenizer = begun.tokenizer if begun else open_tokenizer(recipe, world)
    eye, speaker = open_eye(recipe, begun, world), open_speaker(recipe, begun)
    cache = open_file(recipe, out, tokenizer, eye, world)
    own = begun or speaker
    words = own.words if own else open_words(recipe, out, cache, world)
    pipeline = begun or fresh(recipe, tokenizer, words, eye, speaker)
    learn(pipeline.model)
    mark, told = begun.fingerprint if begun else "", origin(cache, begun)
    reader = Reader(cache, pipeline, recipe.objective.cond_dropout)
    splits = (cache.indices("train").tolist(), cache.indices("held_out").tolist())
    chosen, held = (readable(cache, some, pipeline, world) for some in splits)
    held = held or without_held_out(chosen, world)
    training, measuring = (batches(recipe, reader, some, world) for some in (chosen, held))
    check_rows(recipe, reader, training, measuring, world)
    look = Look(pipeline, reader, held, measuring, recipe, world)
    objective = recipe.objective.objective(pipeline.model)
    line = LiveLine("model", ("loss", *pipeline.model.kinds), "positions", recipe.row)
    trainer = Trainer(
        objective, training, recipe.train, out, world, line, look.evaluate, look.preview
    )
    parts = marks_of(eye=eye, language=speaker and speaker.module)
    parts |= {"tokenizer": cache.tokenizer, "words": words.fingerprint()}
    parts |= {"documents": cache.fingerprint()} if recipe.documents else {}
    claim(out, recipe, world, None, fingerprint=mark, **parts)
    if note and world.main:
        say(note)
    trainer.fit()
    with trainer.averaged():
        if not world.main:
            return {}
        objective.eval()
        measured = {f"held_out_{k}": v for k, v in look.evaluate().items()}
        pipeline.info.pop("fingerprint", None)
        pipeline.info |= told
        pipeline.save_pretrained(out / "pipeline")
    return finish(out, recipe, measured)


def marks_of(**parts: nn.Module | None) -> dict[str, str]:
    """The fingerprints of those parts that there are."""
    return {name: fingerprint(part) for name, part in parts.items() if part is not None}


def fresh(
    recipe: UnifiedRecipe,
    tokenizer: ImageTokenizer | None,
    words: Words,
    eye: Eye | None,
    speaker: Speaker | None,
) -> UnifiedPipeline:
    """A pipeline of a new model."""
    stop = words.stop
    assert stop is not None  # of `check_words`
    marks = Marks(words.start, (stop,), words.pad)
    spec = recipe.model.spec if tokenizer is None else tokenizer.spec
    config = recipe.model.fitted(spec, words.vocab, marks)
    config = config if eye is None else config.seeing(eye.sight)
    config = config if tokenizer is None else config.with_codebook(tokenizer.coder.codebook)
    config = config if speaker is None else config.speaking(speaker.writer.config)
    torch.manual_seed(recipe.train.seed)
    model: Unified = modules.module_of(config, modules.UNIFIED)
    model.init_weights()
    if tokenizer is not None:
        model.learn_from(tokenizer.coder.codebook)
    if speaker is not None:
        model.take(speaker.writer)
    recipe.sampling.check(model)
    return UnifiedPipeline(tokenizer, model, words, recipe.sampling, recipe.writing, eye=eye)


def origin(cache: DocumentCache, begun: UnifiedPipeline | None) -> dict[str, Json]:
    """What a pipeline says of where it comes from; whose art it began from stays said."""
    art = credit_of(cache.source)
    told: dict[str, Json] = {"source": cache.source, "credit": art, "holdout": cache.holdout}
    if begun:
        told |= {"init": begun.fingerprint, "credit": credited(art, begun.info.get("credit"))}
    return {name: value for name, value in told.items() if value}


def batches(
    recipe: UnifiedRecipe, reader: Reader, chosen: Sequence[int], world: World
) -> DocumentBatches:
    """Rows of documents."""
    packing = Packing(
        reader.model.wrapping,
        recipe.row,
        recipe.train.batch,
        reader.model.marks.pad,
        recipe.train.seed,
        world.rank,
        world.size,
    )
    lengths = [reader.length(i) for i in chosen]
    return DocumentBatches(chosen, lengths, reader, packing, reader.cache.key)


def check_rows(
    recipe: UnifiedRecipe,
    reader: Reader,
    training: DocumentBatches,
    measuring: DocumentBatches,
    world: World,
) -> None:
    """Say how many documents do not fit into a row, whose end is left out. Raises ValueError if a
    row has no room for what is learned of any that is trained on."""
    lengths = [reader.length(i) for i in (*training.chosen, *measuring.chosen)]
    if not any(part.learned for document in training.documents() for part in document):
        raise ValueError(
            f"--row {recipe.row} has room for nothing that is learned: the shortest document has "
            f"{min(lengths)} positions"
        )
    if world.main and max(lengths) > recipe.row:
        long = sum(length > recipe.row for length in lengths)
        say(
            f"{long} of {len(lengths)} documents are longer than --row {recipe.row} (the longest "
            f"is {max(lengths)}): what does not fit is left out"
        )


def readable(
    cache: DocumentCache, chosen: Sequence[int], pipeline: UnifiedPipeline, world: World
) -> list[int]:
    """The documents that a model can learn: one that draws none those whose pictures are only read.

    Raises ValueError if there are none.
    """
    if pipeline.draws or not chosen:
        return list(chosen)
    drawn = [any(p.codes is not None and p.learned for p in cache.document(i)) for i in chosen]
    kept = [i for i, out in zip(chosen, drawn, strict=True) if not out]
    if not kept:
        raise ValueError(
            f"all documents of {cache.source} have a picture to draw, and the model draws none"
        )
    if world.main and any(drawn):
        say(f"{sum(drawn)} of {len(chosen)} documents have a picture to draw: they are left out")
    return kept


def open_speaker(recipe: UnifiedRecipe, begun: UnifiedPipeline | None) -> Speaker | None:
    """The language model that the recipe names.

    Raises ValueError if its model needs one and there is none, if it takes none, or for one that
    makes vectors of texts; and where the pipeline has one.
    """
    if begun is not None:
        if recipe.language:
            raise ValueError(f"--init {recipe.init} has its language model: leave --language out")
        return None
    if recipe.language:
        speaker = load_language(recipe.language)
        recipe.model.speaking(speaker.writer.config)
        return speaker
    if recipe.model.frozen:
        raise ValueError(
            "the model's language model is frozen, so it must be trained before: give --language "
            "DIR, such as that of smalti train shapes_language, or --init PIPELINE"
        )
    return None


def open_tokenizer(recipe: UnifiedRecipe, world: World) -> ImageTokenizer | None:
    """The recipe's tokenizer of pictures; None for a model that draws none.

    Raises ValueError if its model cannot write such codes, before the documents are made, if there
    is none, or if there must be none.
    """
    if not recipe.model.drawing:
        if recipe.tokenizer:
            raise ValueError("the model draws no pictures: leave --tokenizer out, it has an --eye")
        return None
    if not recipe.tokenizer:
        raise ValueError("text and pictures need --tokenizer DIR, made by training a tokenizer")
    tokenizer = load_tokenizer(recipe.tokenizer, world.device)
    recipe.model.check_spec(tokenizer.spec)
    return tokenizer


def open_eye(recipe: UnifiedRecipe, begun: UnifiedPipeline | None, world: World) -> Eye | None:
    """The eye of the pipeline that a run begins from, or the recipe's.

    Raises ValueError if the model needs one and there is none, if it takes none, if it reads
    another kind of numbers, and for another one than that of the pipeline.
    """
    model = begun.model.config if begun else recipe.model
    eye = load_eye(recipe.eye, model.eye_of, world.device) if recipe.eye else None
    if eye is not None:
        model.seeing(eye.sight)
    if begun is None:
        if eye is None and (sight := model.sight) is not None:
            raise ValueError(f"the model reads pictures by an eye, {sight.words}: give --eye DIR")
        return eye
    if eye is not None and begun.eye is not None:
        begun.eye.sight.require(eye.sight)
        if (mine := fingerprint(eye)) != (theirs := fingerprint(begun.eye)):
            raise ValueError(
                f"{recipe.eye} is eye {mine}, but the model of {recipe.init} was trained with "
                f"{theirs}: leave --eye out, its own is then taken"
            )
    return begun.eye


def open_file(
    recipe: UnifiedRecipe,
    out: Path,
    tokenizer: ImageTokenizer | None,
    eye: Eye | None,
    world: World,
) -> DocumentCache:
    """The recipe's documents; made in the run's folder where it names no file. Their pictures are
    codes of the tokenizer or, without one, what the eye sees."""
    if tokenizer is None:
        encoder, eye = eye, None
    else:
        encoder = tokenizer
    assert encoder is not None  # of `open_eye`
    path = expand(recipe.documents) if recipe.documents else out / "documents.arrow"
    if not recipe.documents:
        documents = open_documents(recipe.data.source)  # its mistakes before the folder exists
        claim(out, recipe, world)
        if world.main:
            encode_documents(documents, encoder, path, recipe.data.holdout, eye=eye)
    wait(world)
    cache = DocumentCache(path)
    cache.require(fingerprint(coder(encoder)), "" if eye is None else fingerprint(eye))
    if recipe.documents:
        mark, where = cache.fingerprint(), str(path)
        on_main(world, lambda: check_noted(out, "documents", mark, where, recipe.data))
    return cache


def open_words(recipe: UnifiedRecipe, out: Path, cache: DocumentCache, world: World) -> Words:
    """The recipe's text tokenizer; made in the run's folder where it names none.

    Raises ValueError if it is not the one that the run began with.
    """

    def texts() -> list[str]:
        return texts_of(cache, cache.indices("train").tolist())

    return words_of_run(recipe.words, out, world, texts, recipe.vocab)


def check_words(recipe: UnifiedRecipe, begun: UnifiedPipeline | None) -> None:
    """Raise ValueError, naming it, if the text tokenizer that the recipe names is not that of the
    pipeline which the run begins from, or has no id for the end of a document."""
    if not recipe.words:
        return
    if recipe.language:
        raise ValueError(
            f"the language model of {recipe.language} keeps its text tokenizer: leave --words out"
        )
    words = Words.open(recipe.words)
    mine = words.fingerprint()
    if begun is not None and mine != (theirs := begun.words.fingerprint()):
        raise ValueError(
            f"{recipe.words} is text tokenizer {mine}, but the model of {recipe.init} was trained "
            f"with {theirs}: leave --words out, its own is then taken"
        )
    if words.stop is None:
        raise ValueError(
            f"{recipe.words} has no mark for the end of a document, which is one of "
            f"{', '.join(STOPS)}; its marks are {', '.join(words.specials) or 'none'}"
        )
