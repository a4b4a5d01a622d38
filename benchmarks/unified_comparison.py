"""Text and pictures in one model: by which way, and does learning both help or hurt? The page.

    python benchmarks/unified_comparison.py --tokenizer NAME=DIR ... --towers DIR [--out DIR]
        [--docs DIR] [--only NAME ...] [--known FILE ...] [--page] [--quick]

Tokenizers are given by the kind of picture that they make, which each model names: codes, numbers,
features, dual, tower, parts (`TOKENIZERS` says the recipe of each), trained on pictures of several
shapes where they need no captions; --towers are those of `shapes_siglip`, for models with an eye.
Only what is trained needs its tokenizer, beside that of the first way. Trains models of each way at
equal operations, and at three sizes one model of all tasks beside models that learn some of them
alone: such a model sees the documents of its tasks as often as the one of all, so together they
take as many operations as it does. Operations of training are those of the model: pictures are
coded and seen before. Oracles judge what they draw and say.
Finished runs in --out are used again, one that was cut off goes on. Prints a JSON line for each
model, and writes unified-measured.md and its plot into --docs when all are there. --only trains
some and writes nothing else. Models whose lines --known holds, printed before, are not trained
again, and --page trains none but writes the page of these. --quick trains few steps: the page then
says nothing, but it is whole.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from common import earlier, machines, report
from smalti.config import read_json
from smalti.data.document_file import DocumentCache
from smalti.data.documents import open_documents
from smalti.data.shape_documents import ShapeDocuments
from smalti.devices.rates import counted
from smalti.eval.shape_answers import ASKED, interval, judged
from smalti.loading import load_eye, load_tokenizer, load_unified
from smalti.models.eye import Eye
from smalti.models.metamorph import LLAMA_3
from smalti.modules import fingerprint
from smalti.pipeline.unified import UnifiedPipeline
from smalti.recipes.base import UnifiedRecipe
from smalti.recipes.chameleon import shapes_chameleon, small
from smalti.recipes.illume import shapes_illume
from smalti.recipes.janus import shapes_janus
from smalti.recipes.metamorph import shapes_metamorph
from smalti.recipes.show_o import shapes_show_o
from smalti.recipes.transfusion import shapes_transfusion
from smalti.recipes.unifluid import shapes_unifluid
from smalti.recipes.unitok import shapes_unitok
from smalti.recipes.vila_u import shapes_vilau
from smalti.runs import ladder
from smalti.runs.documents import encode_documents
from smalti.runs.run import train
from smalti.runs.schedule import with_steps
from smalti.runs.unified import Reader, batches, fresh, wrapped
from smalti.runs.words import texts_of, words_in
from smalti.sampling.noise import Noise
from smalti.text.sequence import rows_of
from smalti.text.words import Words
from smalti.train.parallel import World
from unified_page import page, plot

TURNS = (
    *("draw", "caption", "ask", "edit", "riddle", "describe"),
    *("questions", "edit", "questions", "story", "fact", "describe"),
)
"""Of documents: all tasks but conversations, which mix what groups hold apart."""
GROUPS = {
    "all": tuple(dict.fromkeys(TURNS)),
    "drawing": ("draw", "edit", "riddle", "story"),
    "reading": ("caption", "questions", "describe", "ask"),
    "telling": ("fact",),
}
"""What each model learns, in the turns that `TURNS` has them in, and is asked for."""
TOKENIZERS = {
    "codes": "shapes_vqgan",
    "numbers": "shapes_klvae_2x2",
    "features": "shapes_renderer",
    "dual": "shapes_dual",
    "tower": "shapes_vilau_tower",
    "parts": "shapes_unitok32",
}
"""What a picture can be, and the recipe of the tokenizer that makes it so."""
SMALL_BATCH = {"telling": 1}
"""Rows of a step, where those of the recipe would be few steps: a row holds many facts and one or
two pictures, so facts alone are seen as often in 20 steps as all documents in 2,000."""
SIZES = {"small": (64, 3), "middle": (128, 4), "large": (192, 6)}
"""Width and layers."""
STEPS = 2000
"""Of the first way and of models of all tasks: a quarter of the recipe's, so that a model for each
way, task and size is trained in a night, and none does everything rightly."""


@dataclass(frozen=True)
class Case:
    """A model that is trained."""

    recipe: Callable[[], UnifiedRecipe]
    tokenizer: str
    """What its pictures are, one of `TOKENIZERS`."""
    eye: bool = False
    """Whether it reads pictures as towers see them."""
    group: str = "all"
    size: str = "large"


def sized(size: str) -> Callable[[], UnifiedRecipe]:
    """The small Chameleon at another size."""

    def made() -> UnifiedRecipe:
        recipe = shapes_chameleon()
        return replace(recipe, model=replace(recipe.model, language=small(*SIZES[size])))

    return made


def metamorph() -> UnifiedRecipe:
    """The small MetaMorph, as large as the others, on rows of any documents."""
    recipe, first = shapes_metamorph(), shapes_chameleon()
    language = replace(small(), vocab=LLAMA_3.vocab, qk_norm="none")
    model = replace(recipe.model, language=language)
    return replace(recipe, model=model, row=first.row, train=first.train)


def wide() -> UnifiedRecipe:
    """The small Transfusion with a decoder as wide as the others' and three times as many
    parameters, as what the time decides has half of them."""
    recipe = shapes_transfusion()
    return replace(recipe, model=replace(recipe.model, heads=6, head_dim=32, dim=192))


WAYS = {
    "chameleon": Case(shapes_chameleon, "codes"),
    "transfusion": Case(shapes_transfusion, "numbers"),
    "transfusion-wide": Case(wide, "numbers"),
    "show-o": Case(shapes_show_o, "codes"),
    "janus": Case(shapes_janus, "codes", eye=True),
    "metamorph": Case(metamorph, "features"),
    "illume": Case(shapes_illume, "dual"),
    "unifluid": Case(shapes_unifluid, "numbers", eye=True),
    "vila-u": Case(shapes_vilau, "tower"),
    "unitok": Case(shapes_unitok, "parts"),
}
"""Each way of a picture in a row, at as many operations as the first."""
FIRST = WAYS["chameleon"]
CASES = WAYS | {
    f"{size}-{group}": Case(sized(size), "codes", group=group, size=size)
    for size in SIZES
    for group in GROUPS
    if (size, group) != ("large", "all")  # which is chameleon
}


def source_of(group: str, documents: int) -> str:
    """The documents of a group: as many as among so many of all."""
    turns = [task for task in TURNS if task in GROUPS[group]]
    return f"shapes-all:{documents * len(turns) // len(TURNS)}:{','.join(turns)}"


@dataclass(frozen=True)
class Shop:
    """What all runs share, in a folder."""

    out: Path
    tokenizers: tuple[tuple[str, Path], ...]
    """Folders of tokenizers, by names of `TOKENIZERS`."""
    towers: Path | None = None
    """What models with an eye see by."""
    steps: int | None = None
    """In place of the recipe's, for a trial."""
    count: int = 30_000
    """Documents."""

    def tokenizer(self, kind: str) -> str:
        return str(dict(self.tokenizers)[kind])

    def require(self, case: Case) -> None:
        """Raise ValueError unless there is all that a case needs."""
        kind = case.tokenizer
        if kind not in dict(self.tokenizers):
            raise ValueError(f"--tokenizer {kind}=DIR is missing, made by {TOKENIZERS[kind]}")
        if case.eye and self.towers is None:
            raise ValueError("--towers DIR is missing, made by shapes_siglip")

    def eye(self, case: Case) -> Eye | None:
        """What a case's model reads pictures by, if it has an eye."""
        return load_eye(str(self.towers), case.recipe().model.eye_of) if case.eye else None

    def documents(self, case: Case, group: str) -> Path:
        """The encoded documents of a group, for a case."""
        eye = self.eye(case)
        seen = "" if eye is None else f"-seen-{fingerprint(eye)}"
        path = self.out / f"{case.tokenizer}{seen}-{group}.arrow"
        documents = open_documents(source_of(group, self.count))
        tokenizer = load_tokenizer(self.tokenizer(case.tokenizer))
        encode_documents(documents, tokenizer, path, 0.02, eye=eye)
        return path

    @property
    def words(self) -> Path:
        """The text tokenizer, trained on the texts of all documents."""
        if (self.out / "words").is_dir():
            return self.out / "words"
        cache = DocumentCache(self.documents(FIRST, "all"))
        words_in(self.out / "words", texts_of(cache, cache.indices("train").tolist()), 512)
        return self.out / "words"

    def recipe(self, case: Case, group: str | None = None) -> UnifiedRecipe:
        """A case's recipe on its documents, or on those of another group."""
        given = case.recipe()
        batch = SMALL_BATCH.get(case.group) if self.steps is None else 4
        if batch is not None:
            given = replace(given, train=replace(given.train, batch=batch))
        return replace(
            given,
            tokenizer=self.tokenizer(case.tokenizer),
            documents=str(self.documents(case, group or case.group)),
            eye=str(self.towers) if case.eye else "",
            words=str(self.words),
            data=replace(given.data, source=source_of(group or case.group, self.count)),
        )


@cache
def operations(shop: Shop, case: Case, group: str) -> tuple[float, float, int]:
    """Of a training step of a model on the documents of a group, forward and backward; how many
    steps see all of them once; and how many numbers the model has."""
    recipe = shop.recipe(case, group)
    documents = DocumentCache(recipe.documents)
    tokenizer, words = load_tokenizer(recipe.tokenizer), Words.open(recipe.words)
    pipeline = fresh(recipe, tokenizer, words, shop.eye(case), None)
    reader = Reader(documents, pipeline, recipe.objective.cond_dropout)
    chosen = documents.indices("train").tolist()
    stream = batches(recipe, reader, chosen, World(0, 1, torch.device("cpu")))
    objective = recipe.objective.objective(pipeline.model.train())
    found = ladder.operations(objective, [stream.batch(step) for step in range(4)])
    epoch = sum(map(reader.length, chosen)) / (recipe.row * recipe.train.batch)
    return found, epoch, sum(p.numel() for p in pipeline.model.parameters())


def steps_of(shop: Shop, case: Case) -> int:
    """How many steps a case takes: of other ways than the first as many as take as many operations
    as its `STEPS`, of a group as many as show it its documents as often."""
    if shop.steps is not None:
        return shop.steps
    if case in WAYS.values() and case != FIRST:
        mine, its = (operations(shop, c, "all")[0] for c in (case, FIRST))
        return round(STEPS * its / mine)
    if case.group == "all":
        return STEPS
    mine, its = (operations(shop, c, c.group)[1] for c in (case, FIRST))
    return max(20, round(STEPS * mine / its))


def bits_per_byte(pipe: UnifiedPipeline, count: int = 200) -> float:
    """Of facts that no training has seen in this order."""
    documents = ShapeDocuments(count, 1, ("fact",))
    each = [wrapped(documents[i], pipe.model, pipe.words) for i in range(count)]
    rows = rows_of(each, pipe.model.wrapping, pipe.model.marks.pad)
    seeds = torch.zeros(count, dtype=torch.int64)
    with torch.inference_mode():
        term = pipe.model.terms(rows, Noise(seeds, seeds))["text"]
    nats = float((term.values * term.where).sum())
    bits = nats / torch.log(torch.tensor(2.0)).item()
    return bits / sum(len(text.encode()) for i in range(count) for text in documents.texts(i))


def drawing_costs(pipe: UnifiedPipeline) -> dict[str, float]:
    """Operations and seconds of a picture of a text, one at a time."""
    text = "a small red heart in the centre"
    operations = counted(lambda: pipe(text))
    began = time.perf_counter()
    for seed in range(4):
        pipe(text, seed=seed)
    return {
        "draw_gflop": operations / 1e9,
        "draw_seconds": (time.perf_counter() - began) / 4,
    }


def trained(name: str, shop: Shop, count: int) -> dict[str, Any]:
    """Train a model, or take what is there; what is measured of it."""
    case, out = CASES[name], shop.out / name
    recipe = shop.recipe(case)
    steps = steps_of(shop, case)
    train(with_steps(recipe, steps) if steps != recipe.train.steps else recipe, out)
    pipe = load_unified(out / "pipeline")
    each, _, parameters = operations(shop, case, case.group)
    right = dict[str, tuple[float, float, float]]()
    for task in ASKED:
        if task in GROUPS[case.group] or (task == "withheld riddle" and case.group == "all"):
            good = sum(one.right for one in judged(pipe, task, count))
            right[task] = (good / count, *interval(good, count))
    told = read_json(out / "report.json")
    return {
        "case": name, "group": case.group, "size": case.size, "parameters": parameters,
        "steps": steps, "operations": each * steps, "right": right, "count": count,
        "facts_bits_per_byte": bits_per_byte(pipe) if "fact" in GROUPS[case.group] else None,
        "held_out": {k: v for k, v in told.items() if k.startswith("held_out")},
    } | (drawing_costs(pipe) if "draw" in GROUPS[case.group] else {})  # fmt: skip


def named(word: str) -> tuple[str, Path]:
    """A tokenizer's kind and folder, of NAME=DIR."""
    name, equals, folder = word.partition("=")
    if not equals or name not in TOKENIZERS:
        raise argparse.ArgumentTypeError(
            f"must be NAME=DIR, NAME one of {', '.join(TOKENIZERS)}, got {word!r}"
        )
    return name, Path(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokenizer", nargs="+", type=named, default=[], metavar="NAME=DIR")
    parser.add_argument("--towers", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/unified-comparison"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--only", nargs="*", choices=CASES, help="train these and stop")
    parser.add_argument("--known", nargs="*", type=Path, default=[], help="lines printed before")
    parser.add_argument("--count", type=int, default=200, help="documents of each task")
    parser.add_argument("--page", action="store_true", help="train none, write what is known")
    parser.add_argument("--quick", action="store_true", help="a trial of some minutes")
    args = parser.parse_args(arguments)
    shop = Shop(args.out, tuple(args.tokenizer), args.towers)
    if args.quick:
        shop = replace(shop, steps=5, count=200)
    known = earlier(args.known)
    missing = [n for n in args.only or CASES if n not in known and not args.page]
    try:
        for name in missing:
            shop.require(FIRST)
            shop.require(CASES[name])
    except ValueError as error:
        parser.error(str(error))
    args.out.mkdir(parents=True, exist_ok=True)
    for name in missing:
        known[name] = trained(name, shop, 4 if args.quick else args.count)
        report(known[name])
    if not args.only:
        rows = [known[name] for name in CASES if name in known]
        plot(rows, args.docs / "unified-measured.png")
        (args.docs / "unified-measured.md").write_text(page(rows, machines(rows)))


if __name__ == "__main__":
    main()
