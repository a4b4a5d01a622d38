"""How many threads torch takes and how they wait for one another, chosen before torch is loaded.

torch computes with OpenMP, whose threads by default spin while they wait for the slowest of them.
On cores that are shared they then hold up the very work they wait for: a training step takes
several times as long. OpenMP reads its settings once, when it is loaded, so they are put into the
environment first. What the user has set there stays.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator, MutableMapping
from contextlib import suppress
from pathlib import Path

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""What decides how threads wait: in every OpenMP, GNU's and Intel's."""

_lines: list[str] = []
"""What was chosen and is yet to be told."""


def choose(environ: MutableMapping[str, str] = os.environ, root: Path = Path("/")) -> None:
    """Set the number of threads where a container's quota allows fewer than there are cores, and
    let them sleep while they wait where cores are shared. `tell` says so.

    It does nothing once torch is loaded.
    """
    if "torch" in sys.modules:
        return
    cores, quota = usable_cores(), cpu_quota(root)
    threads = cores if quota is None else min(cores, max(1, math.ceil(quota)))
    words: list[str] = []
    if quota is not None and threads < cores and "OMP_NUM_THREADS" not in environ:
        environ["OMP_NUM_THREADS"] = str(threads)
        words.append(f"{threads} of {cores} cores, the quota of this container")
    reason = sharing(threads, quota, root)
    if reason and not any(name in environ for name in WAITING):
        environ["OMP_WAIT_POLICY"] = "passive"
        environ["KMP_BLOCKTIME"] = "0"
        words.append(f"waiting threads sleep, as {reason}")
    if words:
        _lines.append(f"threads: {'; '.join(words)}")


def tell() -> str | None:
    """The line on what was chosen, the first time that it is asked for; else None."""
    return _lines.pop() if _lines else None


def sharing(threads: int, quota: float | None, root: Path = Path("/")) -> str | None:
    """Why this many busy threads would not have a core each, or None."""
    if quota is not None and quota < usable_cores():
        return f"this container may use {quota:g} cores"
    cores, others = os.cpu_count() or 1, load(root)
    if others + threads > cores + 0.5:
        return f"other work keeps {others:.1f} of {cores} cores busy"
    return None


def usable_cores() -> int:
    """Number of cores that this process may run on."""
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load(root: Path = Path("/")) -> float:
    """Number of cores that other work keeps busy: what runs now, or over the last minute if that is
    more; 0 if nothing runs now, whatever ran before, and where the system does not say."""
    try:
        looks = [(root / "proc/loadavg").read_text().split() for _ in pauses()]
        now = min(int(running.split("/")[0]) - 1 for _, _, _, running, *_ in looks)
        return max(float(looks[0][0]), now) if now > 0 else 0.0  # this process runs too
    except (OSError, ValueError):
        with suppress(OSError, AttributeError):
            return os.getloadavg()[0]
    return 0.0


def pauses() -> Iterator[None]:
    """Five moments within 8 ms: work that is only passing runs in none or some of them."""
    yield
    for _ in range(4):
        time.sleep(0.002)
        yield


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Number of cores' time that the control group of this process, or one around it, may take
    (cgroup v1 or v2); None where there is no limit."""
    quotas: list[float] = []
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                mounts = ["sys/fs/cgroup", "sys/fs/cgroup/unified"]
            elif "cpu" in controllers.split(","):
                mounts = [f"sys/fs/cgroup/{controllers}", "sys/fs/cgroup/cpu"]
            else:
                continue
            inner = Path(path.lstrip("/"))
            for mount in mounts:
                quotas += [
                    quota
                    for group in (inner, *inner.parents)
                    if (quota := _quota(root / mount / group)) is not None
                ]
    return min(quotas, default=None)


def _quota(group: Path) -> float | None:
    """The limit of one control group, in cores."""
    with suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period)  # "max" is no number
    with suppress(OSError, ValueError):
        quota = int((group / "cpu.cfs_quota_us").read_text())
        return quota / int((group / "cpu.cfs_period_us").read_text()) if quota > 0 else None
    return None
