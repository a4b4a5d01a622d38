"""How a run goes: steps, batches, numbers and pictures on the way, and where it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from smalti.config import check
from smalti.train.compiling import Compile
from smalti.train.guard import GuardConfig
from smalti.train.optim import OptimConfig
from smalti.train.parallel import Parallel, Precision
from smalti.train.trackers import named


@dataclass(frozen=True)
class TrainConfig:
    steps: int = 1000
    """Optimizer steps; warm-up and other schedules of a recipe follow when this is changed."""
    batch: int = 64
    """Images per optimizer step, over all processes and accumulated parts."""
    accumulate: int = 1
    """Parts into which a batch is cut to save memory; it must divide batch / processes."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    precision: Precision = "auto"
    """bf16 is autocast with float32 weights; auto takes it where the device is faster in it. On
    CUDA all other products and convolutions are in TF32, unless this is fp32."""
    ema: float = 0.0
    """Decay of the average of weights that is evaluated and exported; 0 has none."""
    seed: int = 0
    """Random seed of weights, batches and dropout."""
    log: str = "auto"
    """Where numbers and pictures are shown beside metrics.jsonl, short --log: tensorboard, trackio,
    wandb, mlflow, several with commas between; auto: tensorboard where it is installed; none."""
    log_every: int = 10
    """Steps between lines of numbers."""
    eval_every: int = 500
    """Steps between evaluations on held-out data; also at the end. 0: only there."""
    preview_every: int = 500
    """Steps between picture grids; also at the end. 0: only there."""
    save_every: int = 500
    """Steps between checkpoints; also at the end."""
    keep: int = 2
    """Checkpoints kept."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """What to do at a step whose loss is not a number or jumps."""
    parallel: Parallel = "ddp"
    """Among several processes: ddp, each has the whole model; fsdp, each has a share of it."""
    recompute: bool = False
    """Keep no activations inside blocks: less memory for a third more time."""
    memory: float = 0.0
    """GB that a step's activations may take: as many blocks as have to be are recomputed; 0 has no
    limit."""
    compile: Compile = "auto"
    """Compile the blocks of a model by torch.compile; auto does on CUDA."""
    device: str = "auto"
    """cuda, cpu, mps, or auto: the best there is."""

    def __post_init__(self) -> None:
        whole = ("steps", "batch", "accumulate", "log_every", "save_every", "keep")
        check(self, "train.", positive=whole, amounts=("memory",))
        named(self.log)  # or raises ValueError
        if self.batch % self.accumulate:
            raise ValueError(
                f"train.accumulate must divide train.batch {self.batch}, got {self.accumulate}"
            )
