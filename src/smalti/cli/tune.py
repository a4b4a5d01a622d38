"""`smalti tune`: the settings of drawing that a metric likes best, by successive halving.

What was measured is kept in the report as it goes, so a search that was stopped goes on. Imports
torch when it searches, in `search`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from smalti.arguments import choose
from smalti.cli.running import Device, Dtype
from smalti.config import read_json
from smalti.eval.metrics import METRICS, NETWORK
from smalti.files import LOCK, check_output, check_own, expand, is_json_of, lock, write_json
from smalti.progress import say, show


@dataclass(frozen=True)
class Search:
    """What is tried, and by what it is judged. Settings that a pipeline does not have are left
    out, unless they are asked for."""

    guidance: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.0)
    """Values of guidance to try."""
    temperature: tuple[float, ...] = (0.9, 1.0, 1.1)
    """Temperatures to try."""
    top_k: tuple[int, ...] = (0,)
    """Values of top-k to try; 0 is off."""
    top_p: tuple[float, ...] = (0.9, 0.95, 1.0)
    """Values of top-p to try; 1 is off."""
    metric: str = "fwd"
    """What is optimised: fwd, fid, sfid or inception_score."""
    reference: str | None = None
    """Pictures to measure against; default: what was held out in training."""
    inception: Path | None = None
    """The Inception network, for metrics that need it; default: downloaded once."""
    level: int | None = None
    """Level of the wavelet packets; default: chosen by the size of the pictures."""
    budget: int = 4096
    """Number of pictures to draw in all."""
    candidates: int = 27
    """Number of combinations that are tried, chosen by the seed; the pipeline's own is one."""
    seed: int = 0
    """Random seed of the choice of combinations and of drawing."""

    def __post_init__(self) -> None:
        allowed = [m for m in METRICS if METRICS[m].needs != "rows" and "fidelity" not in m]
        object.__setattr__(self, "metric", choose(self.metric, allowed, "metric"))
        if self.candidates < 2:
            raise ValueError(f"candidates must be at least 2, got {self.candidates}")
        if self.inception is not None and self.metric not in NETWORK:
            raise ValueError(f"--inception is for {', '.join(NETWORK)}, got metric {self.metric}")
        if self.level is not None and self.metric != "fwd":
            raise ValueError(f"--level is for fwd, got metric {self.metric}")


def tune(
    pipeline: Annotated[Positional[str], arg(metavar="PIPELINE")],
    search: Annotated[Search, arg(name="")] = Search(),  # noqa: B008 - it is frozen
    out: Path = Path("tuned"),
    write: bool = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: bool = False,
) -> None:
    """Find the settings of drawing that a metric likes best, by successive halving.

    Args:
        pipeline: Folder or Hugging Face hub id.
        out: Folder of the report and the plot of fidelity against diversity. A search that was
            stopped goes on there.
        write: Store what was found as the pipeline's own settings.
        device: Where it is computed: auto (the best there is), cpu, cuda, cuda:1 or mps.
        dtype: Of the generator's weights: float32, bfloat16, float16, or auto, which is bfloat16
            where the device is faster in it and float32 elsewhere.
        json: Print the report on standard output.
    """
    from smalti.cli.plots import is_plot
    from smalti.cli.search import run
    from smalti.loading import load_pipeline

    check_output(out, folder=True)
    check_own(out / "tune.json", lambda path: is_json_of(path, ("format", "rows")))
    check_own(out / "tune.png", is_plot)
    pipe = load_pipeline(pipeline, device, dtype)
    if write and not (expand(pipeline) / "pipeline.json").is_file():
        raise ValueError(f"--write is for a pipeline in a folder, got {pipeline}")
    with lock(out / LOCK, out):
        report = run(pipe, search, out)
    if write:
        path = expand(pipeline) / "pipeline.json"
        told = read_json(path)
        write_json(path, told | {"sampling": told["sampling"] | report["best"]["settings"]})
    if json:
        show(report)
        return
    for row in report["frontier"]:
        say(told_of(row))
    say(f"best {report['metric']}: {told_of(report['best'])}")


def told_of(row: dict[str, Any]) -> str:
    each = {k: v if isinstance(v, list) else [v] for k, v in row["settings"].items()}
    settings = ", ".join(f"{k} {','.join(f'{n:g}' for n in v)}" for k, v in each.items())
    return (
        f"fidelity {row['fidelity']:.3f}, diversity {row['diversity']:.3f}, "
        f"{row['value']:.5g} of {row['images']} pictures: {settings}"
    )
