"""Devices, precision and processes. Model code is written for one device; this is the outside."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import os
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from smalti.devices.named import fast_bf16_products, named_device
from smalti.files import lock

Precision = Literal["auto", "bf16", "tf32", "fp32"]
Parallel = Literal["ddp", "fsdp"]
WAIT = timedelta(hours=12)
"""How long processes wait for the main one, which evaluates and exports alone."""


@dataclass(frozen=True)
class World:
    """This process among all."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """True on the one process that writes files and shows progress."""
        return self.rank == 0


def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks instead of giving each back to the system.

    A training step on a CPU frees and asks for the same blocks again and again; without the page
    faults it is 15 to 20 % faster. Does nothing where there is no glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        trim, mmap = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
        libc.mallopt(mmap, 1 << 30)
        libc.mallopt(trim, 2**31 - 1)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device, which computes meanwhile. CUDA copies so from pinned memory alone, and
    else first ends what it was given to do."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def unasked() -> bool:
    """What `asked_later` says before anything is asked."""
    return False


def asked_later(number: Tensor) -> Callable[[], bool]:
    """Whether a number is above 0: who asks waits for it alone, not for what a GPU has been given
    to do since."""
    if not number.is_cuda:
        return lambda: bool(number > 0)
    copy, done = number.to("cpu", non_blocking=True), torch.cuda.Event()
    done.record(torch.cuda.current_stream(number.device))

    def ask() -> bool:
        done.synchronize()
        return bool(copy > 0)

    return ask


def start(device: str = "auto") -> World:
    """Join the processes that `torchrun` started, or be the only one."""
    chosen = named_device(device)
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=WAIT)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    elif chosen.type == "cpu":
        keep_freed_memory()
    return World(dist.get_rank() if size > 1 else 0, size, chosen)


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def wait(world: World) -> None:
    """Go on when all processes are here."""
    if world.size > 1:
        dist.barrier()


def on_main(world: World, action: Callable[[], object]) -> None:
    """Do something on the main process while the others wait. Where it fails, the main process
    raises its error and the others end without a word."""
    error: Exception | None = None
    if world.main:
        try:
            action()
        except Exception as failure:  # whatever it is, the others must not wait for ever
            error = failure
    if world.size > 1:
        failed = torch.tensor(float(error is not None), device=world.device)
        dist.broadcast(failed, 0)
        if failed and not world.main:
            raise SystemExit(2)
    if error is not None:
        raise error


@contextlib.contextmanager
def locked(world: World, file: Path, what: Path) -> Generator[None]:
    """`files.lock`, held by the main process for all of them."""
    with contextlib.ExitStack() as held:
        on_main(world, lambda: held.enter_context(lock(file, what)))
        yield


def replicate(objective: Any, world: World) -> nn.Module:
    """The objective with gradients averaged over all processes."""
    if world.size == 1:
        return objective
    ids = [world.device.index] if world.device.type == "cuda" else None
    # a discriminator that has not started yet and a codebook in its warm-up have no gradients
    unused = of_tokenizer(objective)
    return DistributedDataParallel(objective, device_ids=ids, find_unused_parameters=unused)


def of_tokenizer(objective: Any) -> bool:
    """Whether an objective has several optimizers, or a codebook whose rows it writes itself."""
    return len(objective.optimized()) > 1 or hasattr(objective, "care")


def blocks(module: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a model, which every model of smalti calls its `layers`."""
    found = (m for m in module.modules() if isinstance(getattr(m, "layers", None), nn.ModuleList))
    return [block for m in found for block in m.get_submodule("layers").children()]


def shard(objective: Any, world: World, precision: Precision) -> Any:
    """The objective with parameters, gradients and optimizer state spread over all processes
    (FSDP2): block by block, then what remains. One process has nothing to spread.

    The main process gets a copy and keeps the objective whole; the others give it up. On CUDA with
    bf16 the blocks compute in bfloat16, activations between them included. A block has its weights
    while its `forward` runs, and methods that it names in `CALLED`.

    Raises ValueError if the objective's model has no blocks, and for tokenizers among several
    processes: a codebook's rows are written between steps, when none of them has all.
    """
    from torch.distributed.device_mesh import init_device_mesh  # slow to import
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.distributed.fsdp import register_fsdp_forward_method as register

    if not blocks(objective.model) or (world.size > 1 and of_tokenizer(objective)):
        raise ValueError("train.parallel fsdp shards a generator's layers; take ddp for tokenizers")
    if world.size == 1:
        return objective.to(world.device)
    half = world.device.type == "cuda" and wants_bf16(world.device, precision)
    dtype = torch.bfloat16 if half else None
    policy = MixedPrecisionPolicy(dtype, torch.float32)
    outside = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)  # the batch
    mesh = init_device_mesh(world.device.type, (world.size,))
    sharded = copy.deepcopy(objective) if world.main else objective
    for block in blocks(sharded.model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
        for method in getattr(block, "CALLED", ()):
            register(block, method)
    kept = exact(sharded.model)
    for parameter in kept:  # each process has all of it
        parameter.data = parameter.data.to(world.device)
    return fully_shard(sharded, mesh=mesh, mp_policy=outside, ignored_params=kept)


def exact(model: nn.Module) -> set[nn.Parameter]:
    """What a model, or a part of it, keeps in float32 whatever the rest computes in (`FLOAT32`) and
    does not learn."""
    kept = set[nn.Parameter]()
    for module in model.modules():
        prefixes: tuple[str, ...] = getattr(type(module), "FLOAT32", ())
        kept |= {
            p
            for name, p in module.named_parameters()
            if prefixes and name.startswith(prefixes) and not p.requires_grad
        }
    return kept


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be sharded, in one piece; called by all processes."""
    return getattr(tensor, "full_tensor", lambda: tensor)()


@torch.no_grad()
def gather(values: Mapping[str, Tensor], into: Mapping[str, Tensor], main: bool) -> None:
    """Copy sharded values to the whole tensors `into` of the main process; called by all."""
    for name, value in values.items():
        value = whole(value)
        if main:
            into[name].copy_(value)


def mean_over(values: Tensor, world: World) -> Tensor:
    """The mean of a tensor over all processes."""
    if world.size == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values / world.size


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The autocast context of a precision; "auto" is bfloat16 where that is faster."""
    return torch.autocast(device.type, torch.bfloat16, enabled=wants_bf16(device, precision))


def wants_bf16(device: torch.device, precision: Precision) -> bool:
    return precision == "bf16" or (precision == "auto" and fast_bf16_products(device))
