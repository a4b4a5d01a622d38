"""What a multi-scale encode costs beside a single-scale one of the same encoder.

    python benchmarks/multiscale.py [--device cuda] [--quick]

VAR's published tokenizer at 256 pixels and `emoji_msvqvae`, each against a plain quantizer of the
same codebook on the latents of the same encoder. Runs alternate; one JSON line per case gives the
medians in ms, `ratio` (multi-scale to single-scale, target 1.3) and what the quantizers alone take.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from common import report, seconds
from smalti.recipes.var import emoji_msvqvae
from smalti.tokenizers.multiscale_vqvae import MultiScaleConfig, MultiScaleVQVAE, var256
from smalti.tokenizers.quantize.vq import VectorQuantizer


def compare(runs: dict[str, Callable[[], Tensor]], repeats: int, device: str) -> dict[str, float]:
    """The median time of each in ms, taken in turns."""

    def timed(run: Callable[[], Tensor]) -> float:
        def once() -> None:
            run()
            if device == "cuda":
                torch.cuda.synchronize()

        return 1000 * seconds(once)

    for run in runs.values():
        timed(run)
    rounds = [[timed(run) for run in runs.values()] for _ in range(repeats)]
    medians = [statistics.median(times) for times in zip(*rounds, strict=True)]
    return dict(zip(runs, medians, strict=True))


@torch.inference_mode()
def case(name: str, config: MultiScaleConfig, batch: int, repeats: int, device: str) -> None:
    torch.manual_seed(0)
    model = MultiScaleVQVAE(config).eval().to(device)
    torch.nn.init.normal_(model.quantize.embedding.weight, std=0.1)
    single = VectorQuantizer(config.vocab, config.dim, config.l2_norm).to(device)
    images = torch.rand(batch, 3, *config.size, device=device) * 2 - 1
    z = model.latent(images)
    times = compare(
        {
            "multi_ms": lambda: model.encode(images),
            "single_ms": lambda: single.encode(model.latent(images)),
            "multi_quantizer_ms": lambda: model.quantize.encode(z),
            "single_quantizer_ms": lambda: single.encode(z),
        },
        repeats,
        device,
    )
    about = {"case": name, "batch": batch, "codes": config.spec.positions}
    report(about | times | {"ratio": times["multi_ms"] / times["single_ms"]}, device)


def main() -> None:
    parser = argparse.ArgumentParser(description="multi-scale beside single-scale encoding")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, no published size")
    options = parser.parse_args()
    device, quick = options.device, options.quick
    small = emoji_msvqvae().model
    assert isinstance(small, MultiScaleConfig)
    case("emoji_msvqvae", small, 64, 5 if quick else 31, device)
    if not quick:
        for batch in (1, 2):
            case("var256", var256(), batch, 5, device)


if __name__ == "__main__":
    main()
