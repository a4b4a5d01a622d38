"""Text and pictures in one model: by which way, and does learning both help or hurt? The page.

    python benchmarks/unified_comparison.py --codes DIR --numbers DIR [--out DIR] [--docs DIR]
        [--only NAME ...] [--known FILE ...] [--quick]

--codes and --numbers are tokenizers of pictures of several shapes, of `shapes_vqgan` and of
`shapes_klvae_2x2`. Trains models of each way at equal operations, and at three sizes one model of
all tasks beside models that learn some of them alone: such a model sees the documents of its tasks
as often as the one of all, so together they take as many operations as it does. Oracles judge what
they draw and say. Finished runs in --out are used again, one that was cut off goes on. Prints a
JSON line for each model, and writes unified-measured.md and its plot into --docs when all are
there. --only trains some and writes nothing else. Models whose lines --known holds, printed
before, are not trained again. --quick trains few steps: the page then says nothing, but it is
whole.
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
from smalti.data.shape_documents import TASKS, ShapeDocuments
from smalti.eval.shape_answers import ASKED, interval, judged
from smalti.loading import load_tokenizer, load_unified
from smalti.pipeline.unified import UnifiedPipeline
from smalti.recipes.base import UnifiedRecipe
from smalti.recipes.chameleon import shapes_chameleon, small
from smalti.recipes.show_o import shapes_show_o
from smalti.recipes.transfusion import shapes_transfusion
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

GROUPS = {
    "all": (*dict.fromkeys(TASKS), "ask"),
    "drawing": ("draw", "edit", "riddle", "story"),
    "reading": ("caption", "questions", "ask"),
    "telling": ("fact",),
}
"""What each model is asked for. It learns those that are in `TASKS`, which says how often each
takes its turn; who learns several questions about a picture is asked one."""
SIZES = {"small": (64, 3), "middle": (128, 4), "large": (192, 6)}
"""Width and layers."""


@dataclass(frozen=True)
class Case:
    """A model that is trained."""

    recipe: Callable[[], UnifiedRecipe]
    tokenizer: str
    """Whose pictures it writes: codes, or numbers."""
    group: str = "all"
    size: str = "large"


def sized(size: str) -> Callable[[], UnifiedRecipe]:
    """The small Chameleon at another size."""

    def made() -> UnifiedRecipe:
        recipe = shapes_chameleon()
        return replace(recipe, model=replace(recipe.model, language=small(*SIZES[size])))

    return made


CASES = {
    "chameleon": Case(shapes_chameleon, "codes"),
    "transfusion": Case(shapes_transfusion, "numbers"),
    "show-o": Case(shapes_show_o, "codes"),
} | {
    f"{size}-{group}": Case(sized(size), "codes", group, size)
    for size in SIZES
    for group in GROUPS
    if (size, group) != ("large", "all")  # which is chameleon
}


def source_of(group: str, documents: int) -> str:
    """The documents of a group: as many as among so many of all."""
    turns = [task for task in TASKS if task in GROUPS[group]]
    count = documents * len(turns) // len(TASKS)
    return f"shapes-all:{count}" if group == "all" else f"shapes-all:{count}:{','.join(turns)}"


@dataclass(frozen=True)
class Shop:
    """What all runs share, in a folder."""

    out: Path
    codes: Path
    """Tokenizer of pictures as codes."""
    numbers: Path
    """Tokenizer of pictures as numbers."""
    steps: int | None = None
    """In place of the recipe's, for a trial."""
    count: int = 30_000
    """Documents."""

    def tokenizer(self, kind: str) -> str:
        return str({"codes": self.codes, "numbers": self.numbers}[kind])

    def documents(self, tokenizer: str, group: str) -> Path:
        """The encoded documents of a group."""
        path = self.out / f"{tokenizer}-{group}.arrow"
        documents = open_documents(source_of(group, self.count))
        encode_documents(documents, load_tokenizer(self.tokenizer(tokenizer)), path, 0.02)
        return path

    @property
    def words(self) -> Path:
        """The text tokenizer, trained on the texts of all documents."""
        cache = DocumentCache(self.documents("codes", "all"))
        words_in(self.out / "words", texts_of(cache, cache.indices("train").tolist()), 512)
        return self.out / "words"

    def recipe(self, case: Case, group: str | None = None) -> UnifiedRecipe:
        """A case's recipe on its documents, or on those of another group."""
        given = case.recipe()
        if self.steps is not None:
            given = replace(given, train=replace(given.train, batch=4))
        return replace(
            given,
            tokenizer=self.tokenizer(case.tokenizer),
            documents=str(self.documents(case.tokenizer, group or case.group)),
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
    pipeline = fresh(recipe, tokenizer, words, documents)
    reader = Reader(documents, pipeline.model, words, recipe.objective.cond_dropout)
    chosen = documents.indices("train").tolist()
    stream = batches(recipe, reader, chosen, World(0, 1, torch.device("cpu")))
    objective = recipe.objective.objective(pipeline.model.train())
    found = ladder.operations(objective, [stream.batch(step) for step in range(4)])
    epoch = sum(map(reader.length, chosen)) / (recipe.row * recipe.train.batch)
    return found, epoch, sum(p.numel() for p in pipeline.model.parameters())


def steps_of(shop: Shop, case: Case) -> int:
    """How many steps a case takes: of the first case as its recipe says, of other ways as many as
    take as many operations, of a group as many as show it its documents as often."""
    if shop.steps is not None:
        return shop.steps
    whole = case.recipe().train.steps
    first = CASES["chameleon"]
    if case.recipe in (shapes_transfusion, shapes_show_o):
        mine, its = (operations(shop, c, "all")[0] for c in (case, first))
        return round(first.recipe().train.steps * its / mine)
    if case.group == "all":
        return whole
    mine, its = (operations(shop, case, group)[1] for group in (case.group, "all"))
    return max(20, round(whole * mine / its))


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
    from torch.utils.flop_counter import FlopCounterMode

    text = "a small red heart in the centre"
    with FlopCounterMode(display=False) as counter:
        pipe(text)
    began = time.perf_counter()
    for seed in range(4):
        pipe(text, seed=seed)
    return {
        "draw_gflop": counter.get_total_flops() / 1e9,
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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--codes", type=Path, required=True)
    parser.add_argument("--numbers", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/unified-comparison"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--only", nargs="*", choices=CASES, help="train these and stop")
    parser.add_argument("--known", nargs="*", type=Path, default=[], help="lines printed before")
    parser.add_argument("--count", type=int, default=200, help="documents of each task")
    parser.add_argument("--quick", action="store_true", help="a trial of some minutes")
    args = parser.parse_args(arguments)
    shop = Shop(args.out, args.codes, args.numbers)
    if args.quick:
        shop = replace(shop, steps=5, count=200)
    args.out.mkdir(parents=True, exist_ok=True)
    known = earlier(args.known)
    for name in args.only or CASES:
        if name not in known:
            known[name] = trained(name, shop, 4 if args.quick else args.count)
            report(known[name])
    if not args.only:
        rows = [known[name] for name in CASES]
        plot(rows, args.docs / "unified-measured.png")
        (args.docs / "unified-measured.md").write_text(page(rows, machines(rows)))


if __name__ == "__main__":
    main()
