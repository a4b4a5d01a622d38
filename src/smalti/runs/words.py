"""Texts and a folder in, a text tokenizer out.

The run's folder holds recipe.json, words/tokenizer.json and report.json. It takes seconds, so there
are no checkpoints: one that was cut off begins anew, and a tokenizer that it has left is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from shlex import quote

from smalti.config import read_json, to_dict
from smalti.data.documents import JOINT, Documents, is_documents, open_documents
from smalti.data.source import split
from smalti.files import LOCK, check_folder, check_output, expand, lock, sweep, write_json
from smalti.progress import say
from smalti.recipes.base import TextsConfig, WordsRecipe
from smalti.runs.data import mark_of
from smalti.runs.folder import Report, differences, other_recipe
from smalti.text.sequence import Document
from smalti.text.words import FOLDER, Words
from smalti.train.parallel import World, wait


def train_words(recipe: WordsRecipe, out: Path) -> Report:
    """Train a text tokenizer on the texts that the recipe names, in the folder `out`/words, and
    return the report; a finished run returns its own at once.

    Raises ValueError if `out` holds anything else than a run of this recipe, if there are no texts,
    and for fewer ids than bytes and marks.
    """
    out = expand(out)
    check_run(out, recipe)
    if (out / "report.json").is_file():
        warn_of_changes(out, recipe)
        return read_json(out / "report.json")
    with lock(out / LOCK, out):
        documents = open_texts(recipe.data.source)
        learned, held = split(documents, recipe.data.holdout)
        texts = texts_of(documents, learned)
        words = words_in(out / FOLDER, texts, recipe.vocab, lambda: claim(out, recipe))
        if not held:
            say("no text is held out: what is measured is measured on the texts of training")
        report: Report = {
            "vocab": words.vocab,
            "texts": len(texts),
            **measured(words, texts_of(documents, held) if held else texts),
            "words": words.fingerprint(),
            "source": documents.name,
            "source_fingerprint": documents.fingerprint(),
        }
        write_json(out / "report.json", report)
    return report


def claim(out: Path, recipe: WordsRecipe) -> None:
    """Write the recipe into its run's folder."""
    out.mkdir(parents=True, exist_ok=True)
    sweep(out)
    write_json(out / "recipe.json", to_dict(recipe))


def words_in(
    folder: Path, texts: Iterable[str], vocab: int, begin: Callable[[], None] = lambda: None
) -> Words:
    """The text tokenizer in a folder; where there is none yet, one that is trained on the texts,
    which is written after `begin`."""
    if not folder.exists():
        words = Words.train(texts, vocab)  # its mistakes before anything is written
        begin()
        words.save(folder)
    return Words.open(folder)


def words_of_run(
    given: str,
    out: Path,
    world: World,
    texts: Callable[[], Iterable[str]],
    vocab: int,
    begin: Callable[[], None] = lambda: None,
) -> Words:
    """The text tokenizer of the folder `given`, or, where none is, that in the folder `out` of a
    run, which is made of texts first, after `begin`.

    Raises ValueError if it is not the one that the run began with.
    """
    if not given:
        if world.main:
            words_in(out / FOLDER, texts(), vocab, begin)
        wait(world)
        return Words.open(out / FOLDER)
    words = Words.open(given)
    mine, begun = words.fingerprint(), mark_of(out, "words")
    if begun and begun != mine:
        raise ValueError(
            f"the run in {out} began with text tokenizer {begun}, {given} is {mine}: "
            "bring that back, or give another --out"
        )
    return words


def open_texts(source: str) -> Documents:
    """Documents, or pictures with captions, of which the texts are read alone."""
    return open_documents(source if is_documents(source) else f"captioned:{source}")


def texts_of(documents: Documents, chosen: Iterable[int]) -> list[str]:
    """The texts of some documents, without decoding or drawing a picture."""
    return [text for i in chosen for text in documents.texts(i) if text]


def measured(words: Words, texts: Iterable[str]) -> dict[str, float]:
    """How many bytes of the texts an id stands for."""
    texts = list(texts)
    ids = sum(len(words.read(text)) for text in texts)
    return {"held_out_bytes_per_id": sum(len(text.encode()) for text in texts) / max(ids, 1)}


def check_run(out: Path, recipe: WordsRecipe) -> None:
    """Raise ValueError if the run's folder holds something else than a run of this recipe."""
    check_output(out, folder=True)
    path = out / "recipe.json"
    if path.is_file():
        for name, old, new in differences(read_json(path), to_dict(recipe)):
            raise other_recipe(out, name, old, new)
    check_folder(out, "recipe.json", ("vocab", "data"), "a run")


def warn_of_changes(out: Path, recipe: WordsRecipe) -> None:
    """Say if the texts have changed since a finished run learned from them."""
    begun = read_json(out / "report.json").get("source_fingerprint")
    try:
        documents = open_texts(recipe.data.source)
    except (ValueError, OSError):  # they may be gone
        return
    if documents.fingerprint() != begun:
        say(
            f"{out} is finished, and {documents.name} has changed since it began. Another --out "
            "trains on what is there now"
        )


# -- what to say at the end


def bytes_written(documents: Iterable[Document], words: Words) -> int:
    """Bytes of the texts of documents that are learned."""
    return sum(
        len(words.write(part.content.tolist()).encode())
        for document in documents
        for part in document
        if part.spec is None and part.learned
    )


def ending(recipe: WordsRecipe, out: Path, report: Report) -> str:
    """Where a finished run has left its tokenizer, how good it is, and the command that takes
    it."""
    fewer = "" if report["vocab"] == recipe.vocab else f" of the {recipe.vocab} asked for"
    return "\n".join(
        [
            f"done: {report['vocab']} ids{fewer} learned from {report['texts']} texts; an id "
            f"stands for {report['held_out_bytes_per_id']:.2f} bytes of held-out text",
            f"it is in {out / FOLDER}; all numbers in {out}/report.json",
            f"next: {following(recipe.data, out)}",
        ]
    )


def following(data: TextsConfig, out: Path) -> str:
    """The command that trains a model of text and pictures with this tokenizer, on these documents;
    where they have no pictures, on shapes as well."""
    source = data.source if is_documents(data.source) else f"captioned:{data.source}"
    if all(name.startswith("text:") for name in JOINT.split(source)):
        source = f"shapes-all+{source}"
    given = "" if source == TextsConfig().source else f" --data.source {quote(source)}"
    return (
        f"smalti train shapes_chameleon --words {quote(str(out / FOLDER))} "
        f"--tokenizer TOKENIZER{given} --out runs/unified"
    )
