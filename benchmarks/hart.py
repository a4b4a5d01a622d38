"""What does HART's refinement cost, and what does the continuous rest buy?

    python benchmarks/hart.py [--quick] [--only refinement|reconstruction] [--tokenizer DIR]
        [--plain DIR] [--rounds N] [--images N]

`refinement`: a picture of the published size (random weights, guidance, 8 steps of the head), with
the head's diffusion and without it, through `smalti.engine.causal.stream` inside `packed`; each
round times both. `share` is the part of the picture's seconds that the diffusion takes, the target
is at most 0.2. `emoji` is the small model, `700M` the published one with `--layers` of its 24.
`reconstruction`: held-out emoji as a hybrid tokenizer gives them back, with the rest and from their
codes alone, and as a plain multi-scale tokenizer of equal network and training does; PSNR in dB,
means over the images, whose target is 1.5 dB more than the codes alone. `--tokenizer` and `--plain`
are folders that `smalti train emoji_hart_vae` and `emoji_msvqvae` wrote.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common import report, seconds
from smalti import modules
from smalti.codes import Cond, Draw
from smalti.data.loader import Images
from smalti.data.open import open_source
from smalti.data.source import split
from smalti.data.transforms import Transform, to_float, to_uint8
from smalti.engine import causal
from smalti.eval.reconstruction import psnr
from smalti.models.hart import HART, SIZES, HARTConfig
from smalti.modules import load_module
from smalti.nn.linear import packed
from smalti.pipeline.sampling import Sampling
from smalti.recipes.hart import emoji_hart
from smalti.sampling.chance import Chance
from smalti.sampling.noise import Noise
from smalti.train.parallel import keep_freed_memory

DRAWN = Sampling.of(guidance=3.0, schedule="linear", head_steps="8")


class NoRest(torch.nn.Module):
    """In place of the diffusion: nothing is left over."""

    def sample(self, h: Tensor, chance: Chance) -> Draw:
        rows = chance.guide.merge(h)
        return Draw(rows.new_zeros(*rows.shape[:2], self.channels), rows[..., 0], h)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def way(self, solver: object) -> None:
        """Any solver will do."""


def text_of(config: HARTConfig) -> Cond:
    """A random text of half the words that there may be."""
    mask = torch.arange(config.text_length) >= config.text_length // 2
    text = torch.randn(1, config.text_length, config.text_dim) * mask[:, None]
    return Cond(text=text, text_mask=mask[None])


def refinement(name: str, config: HARTConfig, rounds: int) -> None:
    torch.manual_seed(0)
    model = HART(config).eval()
    whole, none = model.head.diffusion, NoRest(config.latent)
    request = DRAWN.request(model, text_of(config), Noise.request(0, 1))

    def draw() -> Tensor:
        *_, last = causal.stream(model, request)
        return last.codes

    times: tuple[list[float], list[float]] = ([], [])
    with packed(model):
        draw()
        for i in range(rounds):
            for which in (0, 1) if i % 2 else (1, 0):  # neither is always first
                model.head.diffusion = (none, whole)[which]
                times[which].append(seconds(draw))
    without, refined = map(statistics.median, times)
    case: dict[str, Any] = {
        "model": name,
        "layers": config.layers,
        "positions": config.spec.positions,
        "rounds": rounds,
        "without_s": without,
        "picture_s": refined,
        "share": 1 - without / refined,
        "share_min": 1 - min(times[0]) / min(times[1]),
    }
    report({"script": "hart", "case": "refinement"} | case)


@torch.inference_mode()
def reconstruction(folder: Path, plain: Path | None, images: int) -> None:
    hybrid, about = load_module(folder, modules.TOKENIZERS)
    other = None if plain is None else load_module(plain, modules.TOKENIZERS)[0]
    found: dict[str, list[Tensor]] = {"psnr": [], "psnr_codes": [], "psnr_plain": []}
    source = open_source(about["source"])
    _, held = split(source, about["holdout"])
    transform = Transform(hybrid.size[0], "center", False)
    for batch in Images(source, held[:images], transform, 64).evaluation(64):
        given = batch["images"]
        vectors = hybrid.encode(to_float(given))
        alone = hybrid.discrete(vectors)
        ways = [("psnr", hybrid.decode(vectors)), ("psnr_codes", hybrid.decode(alone))]
        if other is not None:
            ways.append(("psnr_plain", other.decode(other.encode(to_float(given)))))
        for name, back in ways:
            found[name].append(psnr(given, to_uint8(back)))
    means = {name: torch.cat(parts).mean().item() for name, parts in found.items() if parts}
    case = {"images": sum(map(len, found["psnr"])), "tokenizer": str(folder)} | means
    case["gain"] = means["psnr"] - means["psnr_codes"]
    report({"script": "hart", "case": "reconstruction"} | case)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the small model, few rounds: a trial")
    parser.add_argument("--only", choices=("refinement", "reconstruction"))
    parser.add_argument("--tokenizer", type=Path, help="a trained hybrid tokenizer")
    parser.add_argument("--plain", type=Path, help="a trained multi-scale tokenizer beside it")
    parser.add_argument("--images", type=int, default=1000, help="held-out images at most")
    parser.add_argument("--layers", type=int, default=2, help="of the published model's 24")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed")
    options = parser.parse_args()
    keep_freed_memory()
    if options.only in (None, "refinement"):
        small = emoji_hart().model
        assert isinstance(small, HARTConfig)
        refinement("emoji", small, 3 if options.quick else options.rounds)
        if not options.quick:
            large = replace(HARTConfig(), **SIZES["700M"] | {"layers": options.layers})
            refinement("700M", large, options.rounds)
    if options.only == "reconstruction" or (options.only is None and options.tokenizer):
        if options.tokenizer is None:
            parser.error("reconstruction needs --tokenizer")
        reconstruction(options.tokenizer, options.plain, options.images)


if __name__ == "__main__":
    main()
