"""How fast does each model of text and pictures train, draw and write?

    python benchmarks/unified_gpu.py [--device cuda] [--only NAME] [--batch N] [--size small]

A line for each: positions a second of a training step (forward, loss, backward, clipping, AdamW, on
rows that are there), pictures a second with guidance, ids of text a second. Weights are random;
where the device is fast in bfloat16, training has autocast, and weights that draw are of that.
Published sizes draw and write alone. `peak_GB` is what CUDA held at most. With --device cpu, the
small ones: to see that all of it runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from common import report, seconds
from smalti import modules
from smalti.codes import Cond, TokenSpec
from smalti.devices import rates
from smalti.devices.named import cast, fast_bf16, named_device
from smalti.engine import mixed
from smalti.engine.step import Request
from smalti.models.unified import Marks, Unified
from smalti.nn.linear import packed
from smalti.recipes import RECIPES
from smalti.sampling.noise import Noise
from smalti.text.sequence import Part, rows_of
from smalti.train.joint import batch_of
from smalti.train.optim import adamw

WORDS, MARKS = 512, Marks(0, (1,), 2)
CODES, NUMBERS = TokenSpec(((8, 8),), 512), TokenSpec(((4, 4),), channels=32)
NAMES = {
    "small": {
        "one_vocabulary": "shapes_chameleon",
        "emu3": "shapes_emu3",
        "show_o": "shapes_show_o",
        "transfusion": "shapes_transfusion",
        "transfusion_paper": "shapes_transfusion_paper",
        "unifluid": "shapes_unifluid",
    },
    "published": {
        "one_vocabulary": "chameleon_7b",
        "liquid": "liquid_7b",
        "emu3": "emu3",
        "show_o": "show_o",
        "transfusion_paper": "transfusion_7b",
        "unifluid": "unifluid_2b",
    },
}
"""The recipe of each model."""


def timed(run: Callable[[], object], device: torch.device, rounds: int = 3) -> float:
    """Seconds of a call, the shortest of some, after one that is not counted."""

    def whole() -> None:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    whole()
    return min(seconds(whole) for _ in range(rounds))


def model_of(recipe: Any, size: str, device: torch.device) -> Unified:
    """A new model; a small one is of the codes that its recipe's tokenizer would give."""
    config = recipe.model
    if size == "small":
        config = config.fitted(CODES if config.spec.discrete else NUMBERS, WORDS, MARKS)
    torch.manual_seed(0)
    with device:
        model = modules.module_of(config, modules.UNIFIED)
        model.init_weights()
    return model


def documents(model: Unified, count: int, prefix: int = 32) -> list[list[Part]]:
    """Texts of some ids."""
    torch.manual_seed(0)
    return [[Part(torch.randint(3, WORDS // 2, (prefix,)))] for _ in range(count)]


def training(model: Unified, recipe: Any, batch: int, device: torch.device) -> float:
    """Positions a second of a step, of rows of a text and a picture."""
    picture = mixed.picture_of(model)
    rows = rows_of([[*some, picture] for some in documents(model, batch)], model.wrapping)
    given = {name: t.to(device) for name, t in batch_of(rows).items()}
    given["shuffle"] = torch.arange(batch, device=device)
    objective = recipe.objective.objective(model.train())
    optimizer = adamw(model, recipe.train.optim)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=fast_bf16(device)):
            loss = objective(given, 0).totals["model"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.train.optim.clip)
        optimizer.step()
        optimizer.zero_grad()

    return rows.ids.numel() / timed(step, device)


def request(model: Unified, recipe: Any, batch: int, device: torch.device) -> mixed.MixedRequest:
    """A picture behind each text, drawn as the recipe says."""
    how = Request(
        Cond(labels=torch.arange(batch, device=device)),
        Noise.request(0, batch, 0, device),
        recipe.sampling.guidance,
        recipe.sampling.filters,
        recipe.sampling.solver,
        recipe.sampling.revealed(model),
    )
    words = torch.arange(model.vocab) < WORDS // 2
    return mixed.MixedRequest(documents(model, batch), how, words, first="picture", length=1 << 20)


def case(name: str, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """What is measured of a model."""
    recipe = RECIPES[NAMES[options.size][name]]()
    model, batch = model_of(recipe, options.size, device), options.batch
    found: dict[str, Any] = {"case": name, "size": options.size, "batch": batch}
    rates.forget_peak(device)
    found["parameters"] = sum(p.numel() for p in model.parameters())
    if options.size == "small":
        found["positions_per_s"] = training(model, recipe, batch, device)
    if fast_bf16(device):
        cast(model, torch.bfloat16, model.FLOAT32)
    model.eval().requires_grad_(False)
    picture = request(model, recipe, batch, device)
    text = replace(picture, first="text", most=options.ids, pictures=0)

    def draw(wish: mixed.MixedRequest) -> None:
        with torch.inference_mode(), packed(model):
            for _ in mixed.stream(model, wish):
                pass

    found["pictures_per_s"] = batch / timed(lambda: draw(picture), device, 1)
    found["ids_per_s"] = batch * options.ids / timed(lambda: draw(text), device, 1)
    if device.type == "cuda":
        found["peak_GB"] = torch.cuda.max_memory_allocated(device) / 1e9
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--size", choices=tuple(NAMES), default="small")
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--ids", type=int, default=64)
    options = parser.parse_args()
    device = named_device(options.device)
    for name in options.only or NAMES[options.size]:
        report(case(name, options, device), options.device)


if __name__ == "__main__":
    main()
