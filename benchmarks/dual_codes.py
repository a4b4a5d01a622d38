"""What do two levels of codes cost, beside features that are not coded and pixels alone? On shapes.

    python benchmarks/dual_codes.py --towers DIR [--dual RUN] [--out DIR] [--steps N] [--reading N]
        [--count N] [--seeds N] [--quick]

--towers are those of `shapes_siglip`. Two questions, with targets of ours:

- Reading. A small captioner learns from features that the tower gives, another one from the same
  features as semantic codes of `shapes_dual` give them back; they are equal otherwise, and learn
  the same pictures in the same order. How often is a caption right, all of colour, shape, size and
  place, of pictures that none has seen? Codes may be right in 3 points fewer. With --seeds both
  learn several times.
- Drawing. `shapes_dual` beside the same network whose decoder is given zeros in the place of
  semantic codes, so that pictures are made of codes of pixels alone: as many numbers, steps and
  pictures. How well do pictures that none has seen come back? Two levels may lose 0.3 dB.

Tokenizers are trained in --out; finished ones are used again, one that was cut off goes on. --dual
is a finished run of `smalti train shapes_dual` with these towers: it is not trained once more, and
pixels alone learn its data for as many steps. Prints a JSON line for each reader and tokenizer, and
one with both differences.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import report
from smalti.config import read_json
from smalti.data.drawn_shapes import Shapes
from smalti.data.open import open_source
from smalti.data.transforms import Transform, to_float
from smalti.eval.reconstruction import reconstruction
from smalti.eval.shape_answers import interval
from smalti.loading import load_tokenizer, load_towers
from smalti.models.language import Language, LanguageConfig
from smalti.nn.linear import Linear
from smalti.nn.llama import Place
from smalti.recipes.base import DualRecipe
from smalti.recipes.illume import shapes_dual
from smalti.runs.schedule import with_steps
from smalti.runs.tokenizer import open_pictures
from smalti.tokenizers.dual import DualTokenizer
from smalti.train.parallel import World
from smalti.train.trainer import LiveLine, Trainer

BATCH = 64
PICTURES = 8000
"""That captioners learn from."""
READER = LanguageConfig(vocab=64, layers=3, heads=4, dim=128, ffn_dim=256)
READING, DRAWING = 3.0, 0.3
"""Points of right captions, and dB, that two levels may cost."""


def numbers(module: nn.Module) -> int:
    """How many numbers a module has."""
    return sum(p.numel() for p in module.parameters())


# -- drawing


class PixelsAlone(DualTokenizer):
    """The same with zeros where semantic codes would be read."""

    def render(self, semantic: Tensor, pixels: Tensor | None) -> Tensor:
        return super().render(torch.zeros_like(semantic), pixels)


def trained(kind: type[DualTokenizer], recipe: DualRecipe, towers: Any, out: Path) -> DualTokenizer:
    """A tokenizer of the recipe, after its steps or as it was found in `out`, in evaluation
    mode."""
    world, train = World(0, 1, torch.device("cpu")), recipe.train
    torch.manual_seed(train.seed)
    model = kind(recipe.model.seeing(towers.config))
    model.see_with(towers)
    pictures = open_pictures(recipe, open_source(recipe.data.source), model.size, world)
    objective = recipe.objective.objective(model, train.seed, train.steps)
    line = LiveLine(kind.__name__, ("loss", "psnr"))
    trainer = Trainer(objective, pictures.training, train, out, world, line)
    out.mkdir(parents=True, exist_ok=True)
    trainer.fit()
    with trainer.averaged():
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def finished(folder: Path) -> DualTokenizer:
    """A tokenizer that `smalti train` has left, in evaluation mode."""
    model = load_tokenizer(str(folder))
    assert isinstance(model, DualTokenizer), model
    return model.eval().requires_grad_(False)


def drawing(name: str, model: DualTokenizer, recipe: DualRecipe) -> float:
    """How well held-out pictures come back, in dB; reports it."""
    world = World(0, 1, torch.device("cpu"))
    pictures = open_pictures(recipe, open_source(recipe.data.source), model.size, world)
    told = reconstruction(model, pictures.held_out.evaluation(BATCH), world.device)
    parts = (model.encoder, model.quant_conv, model.pixel_quantize, model.post_quant_conv)
    report({
        "case": name, "steps": recipe.train.steps, "pictures": told["images"],
        "psnr": told["psnr"], "ssim": told["ssim"],
        "parameters_of_pictures": sum(map(numbers, (*parts, model.decoder))),
    })  # fmt: skip
    return told["psnr"]


# -- reading


@torch.no_grad()
def features_of(model: DualTokenizer, pictures: Shapes, codes: bool) -> Tensor:
    """Features (B, N, F) of pictures as the ViT gives them, or as semantic codes do."""
    transform, found = Transform(model.size[0]), list[Tensor]()
    for some in torch.arange(len(pictures)).split(BATCH):
        pixels = [torch.from_numpy(transform(pictures[i].image, None)) for i in some.tolist()]
        features = model.target(to_float(torch.stack(pixels)))
        if codes:
            latent = model.semantic_quantize(model.semantic_encoder(features)).latent
            features = model.semantic_decoder(latent.to(features.dtype))
        found.append(features.flatten(2).transpose(1, 2))
    return torch.cat(found)


class Captions:
    """Captions as rows of ids: 0 begins one, 1 ends it and fills it up."""

    def __init__(self, pictures: Shapes) -> None:
        texts = [pictures.caption(i).split() for i in range(len(pictures))]
        self.words = sorted({word for text in texts for word in text})
        self.length = 1 + max(map(len, texts))
        self.number = {word: i for i, word in enumerate(self.words, 2)}

    def ids(self, pictures: Shapes) -> Tensor:
        """(B, T) of the captions of pictures."""
        found = torch.ones(len(pictures), self.length, dtype=torch.int64)
        for row, i in zip(found, range(len(pictures)), strict=True):
            text = [self.number[word] for word in pictures.caption(i).split()]
            row[: len(text)] = torch.tensor(text)
        return found


class Captioner(nn.Module):
    """Features (B, N, F), and words so far, to the next word: a small decoder that reads the
    features first."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.proj, self.language = Linear(features, READER.dim), Language(READER)

    def forward(self, features: Tensor, words: Tensor) -> Tensor:
        """Logits (B, T, V) of the words behind each of words (B, T)."""
        x = torch.cat((self.proj(features), self.language.embed(words)), 1)
        here = torch.arange(x.shape[1])
        place = Place(here, len(here), self.language.turns(here[None]), None, True, True)
        return self.language.logits(self.language(x, place)[:, features.shape[1] :])

    @torch.no_grad()
    def write(self, features: Tensor, length: int) -> Tensor:
        """The likeliest words (B, T), one after another."""
        words = torch.zeros(len(features), 1, dtype=torch.int64)
        for _ in range(length):
            words = torch.cat((words, self(features, words)[:, -1:].argmax(-1)), 1)
        return words[:, 1:]


def taught(features: Tensor, ids: Tensor, steps: int, seed: int) -> Captioner:
    """A captioner that has learned; a seed decides its start and the order of pictures."""
    torch.manual_seed(seed)
    reader = Captioner(features.shape[-1])
    optimizer = torch.optim.AdamW(reader.parameters(), 1e-3, (0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps)
    before = F.pad(ids, (1, 0))[:, :-1]
    for _ in range(steps):
        chosen = torch.randint(len(ids), (BATCH,))
        logits = reader(features[chosen], before[chosen])
        loss = F.cross_entropy(logits.flatten(0, 1), ids[chosen].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return reader.eval()


def reading(model: DualTokenizer, steps: int, count: int, seeds: int) -> dict[str, float]:
    """How often captions of both kinds of features are right; reports it."""
    learned_of, new = Shapes(PICTURES, seed=1), Shapes(count, seed=2)
    captions, shares = Captions(learned_of), dict[str, float]()
    for name, codes in (("tower", False), ("semantic codes", True)):
        given, asked = (features_of(model, some, codes) for some in (learned_of, new))
        wanted, right = captions.ids(new), 0
        for seed in range(seeds):
            reader = taught(given, captions.ids(learned_of), steps, seed)
            made = torch.cat([reader.write(part, captions.length) for part in asked.split(BATCH)])
            right += int((made == wanted).all(1).sum())
        shares[name] = right / (count * seeds)
        report({
            "case": f"captions of {name}", "steps": steps, "seeds": seeds, "pictures": count,
            "right": shares[name], "interval": interval(right, count * seeds),
            "parameters": numbers(Captioner(given.shape[-1])),
        })  # fmt: skip
    return shares


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--towers", required=True)
    parser.add_argument("--dual", type=Path, metavar="RUN", help="a run of shapes_dual")
    parser.add_argument("--out", type=Path, default=Path("runs/dual-codes"))
    parser.add_argument("--steps", type=int, help="of each tokenizer; default: the recipe's")
    parser.add_argument("--reading", type=int, default=800, help="steps of each captioner")
    parser.add_argument("--count", type=int, default=1000, help="new pictures that are captioned")
    parser.add_argument("--seeds", type=int, default=1, help="captioners of each kind")
    parser.add_argument("--quick", action="store_true", help="a trial of some minutes")
    args = parser.parse_args(arguments)
    recipe, towers = shapes_dual(), load_towers(args.towers).towers
    if args.quick:
        args.steps, args.reading, args.count = args.steps or 20, 20, 64
        recipe = replace(recipe, data=replace(recipe.data, source="shapes:400"))
    if args.dual:
        told = read_json(args.dual / "recipe.json")
        recipe = replace(recipe, data=replace(recipe.data, source=told["data"]["source"]))
        args.steps = told["train"]["steps"]
    recipe = with_steps(recipe, args.steps or recipe.train.steps)
    made: dict[str, DualTokenizer] = {
        "two levels": finished(args.dual / "tokenizer")
        if args.dual
        else trained(DualTokenizer, recipe, towers, args.out / "two-levels"),
        "pixels alone": trained(PixelsAlone, recipe, towers, args.out / "pixels-alone"),
    }
    psnr = {name: drawing(name, model, recipe) for name, model in made.items()}
    right = reading(made["two levels"], args.reading, args.count, args.seeds)
    lost = 100 * (right["tower"] - right["semantic codes"])
    less = psnr["pixels alone"] - psnr["two levels"]
    report({
        "case": "cost", "points_of_captions": lost, "captions_in_target": lost <= READING,
        "db": less, "db_in_target": less <= DRAWING,
    })  # fmt: skip


if __name__ == "__main__":
    main()
