"""How fast is MAR-B drawn, beside the plain way that computes everything anew at each step?

    python benchmarks/mar.py [--quick]

The published setting: 100 steps of the head, linear guidance, one image, float32 on a CPU; 256
reveal steps (one code each), and 64. Weights are random. The plain way is tests/mar_plain.py, the
official structure with `F.linear`; ours is the model's own path inside `packed`, without a cache.
A spread of reveal steps is timed, both ways by turns and the better of some rounds, and a line
between them summed over all steps. One JSON line per case: seconds for an image, `ratio` (the
target is 2), what share of each is the head, and the largest `difference` of the codes of a step
by the largest code. `refresh` above 1 is with features that are kept for so many steps (not exact).
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common import report, seconds
from smalti.codes import Cond, Turn
from smalti.models.mar import MAR, SIZES, MARConfig, Prepared
from smalti.nn.linear import packed
from smalti.sampling.chance import Chance
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise, SlotNoise
from smalti.sampling.orders import shuffled
from smalti.sampling.reveal import Reveal
from smalti.sampling.solvers import Solver, respaced

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import mar_plain  # noqa: E402

HEAD_STEPS = 100
GUIDANCE = Guidance(2.9, "linear")
REFRESH = 8


class Times(NamedTuple):
    """Seconds of one reveal step, and the codes it drew."""

    trunk: float
    head: float
    codes: Tensor


def build() -> MAR:
    torch.manual_seed(0)
    model = MAR(MARConfig(**SIZES["B"])).eval()
    for layer in (*model.head.adalns, model.head.out):
        nn.init.normal_(layer.weight, std=0.02)  # a new head predicts 0
    return model


class Bench:
    """One image that is drawn in so many reveal steps."""

    def __init__(self, model: MAR, steps: int) -> None:
        self.model, self.steps, n = model, steps, model.spec.positions
        self.noise, self.labels = Noise.request(0, 1), torch.zeros(1, dtype=torch.int64)
        self.orders, self.codes = shuffled(self.noise, n), torch.randn(1, n, model.spec.channels)
        self.left = [n, *Reveal(steps).left(n, steps)]

    def turn(self, step: int, fresh: bool = True) -> Turn:
        n, before, after = len(self.codes[0]), *self.left[step : step + 2]
        known = torch.zeros(1, n, dtype=torch.bool).scatter(1, self.orders[:, : n - before], True)
        return Turn(known, self.orders[:, n - before : n - after], n - before, fresh)

    def scale(self, step: int) -> float:
        return GUIDANCE.scale_at(step, self.steps, 1 - max(1, self.left[step + 1]) / self.left[0])

    def plain(self, step: int) -> Times:
        model, turn = self.model, self.turn(step)
        assert turn.wanted is not None
        schedule = respaced(1000, str(HEAD_STEPS))
        ids = torch.cat((self.labels, self.labels + model.config.classes))
        draws, channels = HEAD_STEPS + 1, model.spec.channels
        numbers = self.noise.normal(turn.wanted, draws * channels).view(-1, draws, channels)
        found: dict[str, Tensor] = {}

        def trunk() -> None:
            both = self.codes.repeat(2, 1, 1), ids, turn.known.repeat(2, 1)
            found["z"] = mar_plain.trunk(model, *both)[:, turn.wanted[0]].flatten(0, 1)

        def head() -> None:
            rows, scale = numbers.transpose(0, 1), self.scale(step)
            found["codes"] = mar_plain.diffuse(model, found["z"], rows, schedule, scale, 1.0)

        return Times(seconds(trunk), seconds(head), found["codes"])

    def ours(self, step: int, prepared: Prepared, cache: Any = None, fresh: bool = True) -> Times:
        model, turn = self.model, self.turn(step, fresh)
        assert turn.wanted is not None
        guide = GUIDANCE.at(step, self.steps, 1 - max(1, self.left[step + 1]) / self.left[0])
        noise, found = SlotNoise(self.noise, turn.wanted), dict[str, Tensor]()
        chance = Chance(guide, noise, solver=Solver(steps=str(HEAD_STEPS)))

        def trunk() -> None:
            codes = guide.tile(self.codes)
            found["z"] = model.hidden(codes, prepared, turn.tile(guide), cache)

        def head() -> None:
            found["codes"] = model.head.sample(found["z"], chance).codes

        return Times(seconds(trunk), seconds(head), found["codes"][0])


def summed(at: list[int], values: list[float], steps: int) -> float:
    """The sum over all steps of a line through `values` at the steps `at`."""
    total, pieces = 0.0, list(zip(at, values, strict=True))
    for step in range(steps):
        a, x = max((p for p in pieces if p[0] <= step), default=pieces[0])
        b, y = min((p for p in pieces if p[0] >= step), default=pieces[-1])
        total += x + (y - x) * ((step - a) / (b - a) if b > a else 0.0)
    return total


@torch.inference_mode()
def case(model: MAR, steps: int, rounds: int) -> None:
    bench = Bench(model, steps)
    at = [max(1, round((steps - 1) * share)) for share in (0.004, 0.25, 0.5, 0.75, 0.98)]
    prepared = model.prepare(GUIDANCE.branches(Cond(bench.labels)))
    names = ("plain", "ours", "kept")
    best: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    worst = 0.0
    with packed(model):
        for step in at:
            cache, tried = model.cache(2), dict[str, list[Times]]()
            bench.ours(step - 1, prepared, cache)
            for _ in range(rounds):
                tried.setdefault("plain", []).append(bench.plain(step))
                tried.setdefault("ours", []).append(bench.ours(step, prepared))
                kept = bench.ours(step, prepared, cache, fresh=False)
                tried.setdefault("kept", []).append(kept)
            plain, ours = tried["plain"][0].codes, tried["ours"][0].codes
            worst = max(worst, float((plain - ours).abs().max() / plain.abs().max()))
            for name, times in tried.items():
                best[name].append((min(t.trunk for t in times), min(t.head for t in times)))
    total = {
        (name, part): summed(at, [pair[part] for pair in best[name]], steps)
        for name in names
        for part in (0, 1)
    }
    plain = total["plain", 0] + total["plain", 1]
    fresh = len(range(0, steps, REFRESH)) / steps
    trunks = {
        1: total["ours", 0],
        REFRESH: fresh * total["ours", 0] + (1 - fresh) * total["kept", 0],
    }
    for refresh, trunk in trunks.items():
        ours = trunk + total["ours", 1]
        about = {"case": "mar_b", "reveal_steps": steps, "head_steps": HEAD_STEPS}
        result = {
            "refresh": refresh,
            "plain_s": plain,
            "plain_head_share": total["plain", 1] / plain,
            "ours_s": ours,
            "ours_head_share": total["ours", 1] / ours,
            "ratio": plain / ours,
        }
        report(about | result | ({"difference": worst} if refresh == 1 else {}))


def main() -> None:
    parser = argparse.ArgumentParser(description="MAR-B beside the plain way of drawing")
    parser.add_argument("--quick", action="store_true", help="one round, 256 reveal steps only")
    options = parser.parse_args()
    model = build()
    for steps in (256,) if options.quick else (256, 64):
        case(model, steps, 1 if options.quick else 3)


if __name__ == "__main__":
    main()
