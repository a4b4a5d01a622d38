"""Does a server draw as fast as a pipeline, and what does it do when more is asked than it can?

    python benchmarks/serve_load.py PIPELINE [--slots 8] [--seconds 60]
    python benchmarks/serve_load.py PIPELINE --seconds 600 --arrivals-only > load.jsonl &

Prints a JSON line each of: the overhead over `pipe()` of one picture; 32 mixed requests in the
running batch beside one uniform batch of the loop; 8 clients at once beside 8 in turn; the first
picture on the way; steps until a cancelled picture is gone; and Poisson arrivals at 0.5, 0.9 and
1.5 of what the server can, a fifth of them cancelled and a tenth of readers that stop: how many
pictures were wrong (each is compared with the pipeline's own), lost or refused, and how much the
memory grew: from a tenth of the time on, when all that is kept is there, to the end, and what it
was at 20 times between. Everything runs in this process, the server behind a real socket.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import random
import resource
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openai
import uvicorn
from PIL import Image

from common import report
from smalti.engine.batching import Batching, Decoder
from smalti.engine.running import Running
from smalti.engine.waiting import Drawn, Job
from smalti.loading import load
from smalti.pipeline.pipeline import Pipeline
from smalti.serve.app import make_app
from smalti.serve.server import Timed, listen
from smalti.serve.shared import Limits, Shared
from smalti.serve.state import Server, compute_alone

SAMPLES = 20
"""How often the memory is looked at."""


def timed(function: Callable[[], Any], times: int = 5) -> float:
    """Median seconds of a call, the first left out."""
    function()
    found = list[float]()
    for _ in range(times):
        began = time.perf_counter()
        function()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def in_turn(ways: dict[str, Callable[[], Any]], times: int) -> dict[str, list[float]]:
    """Seconds of calls that take turns, the first of each left out."""
    found = {name: list[float]() for name in ways}
    for i in range(times + 1):
        for name, function in ways.items():
            began = time.perf_counter()
            function()
            if i:
                found[name].append(time.perf_counter() - began)
    return found


def memory() -> float:
    """MB that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


class Client:
    """A server in this process, and who asks it."""

    def __init__(self, pipe: Pipeline, slots: int, threads: int, queue: int = 64) -> None:
        self.shared = Shared("served", pipe, Limits(slots, queue, threads=threads))
        place = listen("127.0.0.1", 0)
        app = make_app(Server([self.shared]))
        config = uvicorn.Config(app, http=Timed, log_level="critical", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        threading.Thread(target=self.server.run, args=([place],), daemon=True).start()
        while not self.server.started:
            time.sleep(0.01)
        url = f"http://127.0.0.1:{place.getsockname()[1]}/v1"
        self.sync = openai.OpenAI(base_url=url, api_key="x", max_retries=0)
        self.url = url

    def one(self, seed: int, **more: Any) -> Any:
        prompt = str(seed % len(self.shared.pipeline.classes))
        return self.sync.images.generate(prompt=prompt, extra_body={"seed": seed}, **more)


def settings(seed: int) -> dict[str, Any]:
    """Settings of one of many mixed requests."""
    chance = random.Random(seed)
    return {
        "guidance": chance.choice([1.5, 2.0, 3.0]),
        "temperature": chance.choice([0.9, 1.0]),
        "top_k": chance.choice([0, 100]),
    }


def throughput(pipe: Pipeline, slots: int, count: int = 32) -> dict[str, float]:
    """Seconds of mixed requests in the running batch, and of as many uniform ones in batches of the
    loop; codes alone."""
    whole = Decoder(lambda codes, spec: list(codes), lambda step, spec: [])
    shared = Shared("served", pipe, Limits(slots))

    def mixed() -> None:
        batching = Batching(Running(pipe.model), whole, slots, count)
        left = list(range(count))

        def tell(event: Any) -> None:
            assert isinstance(event, Drawn)
            left.pop()

        jobs = list[Job]()
        for seed in range(count):
            asked = pipe.asked(classes=[seed % len(pipe.classes)])
            drawing = pipe.drawing(asked, seed=seed, **settings(seed))
            (job,) = shared.jobs(drawing.parts(1, 0, 1), lambda i, part, event: tell(event))
            job.codes = True
            jobs.append(job)
        batching.submit(jobs)
        while left:
            batching.turn()
        batching.running.close()

    def uniform() -> None:
        for first in range(0, count, slots):
            pipe.codes([0] * min(slots, count - first), first=first, guidance=2.0)

    return {"mixed": timed(mixed, 3), "uniform": timed(uniform, 3)}


def poisson(client: Client, rate: float, seconds: float) -> dict[str, Any]:
    """What becomes of requests that come at random, so many in a second."""
    expected, counts = (
        dict[int, np.ndarray](),
        dict.fromkeys(("asked", "right", "wrong", "lost", "refused", "cancelled", "stopped"), 0),
    )
    took, held = list[float](), list[float]()
    pipe, chance = client.shared.pipeline, random.Random(0)
    seeds = 16
    for seed in range(seeds):
        (image,) = pipe(classes=[seed % len(pipe.classes)], seed=seed)
        expected[seed] = np.asarray(image, int)

    async def ask(many: openai.AsyncOpenAI, kind: str, seed: int) -> None:
        counts["asked"] += 1
        began = time.monotonic()
        prompt = str(seed % len(pipe.classes))
        more: dict[str, Any] = {"prompt": prompt, "extra_body": {"seed": seed}, "timeout": 120}
        try:
            if kind == "whole":
                answer = await many.images.generate(**more)
                took.append(time.monotonic() - began)
                data = base64.b64decode(answer.data[0].b64_json)
                found = np.asarray(Image.open(io.BytesIO(data)), int)
                same = np.abs(found - expected[seed]).max() <= 1  # a level, by rounding
                counts["right" if same else "wrong"] += 1
                return
            stream = await many.images.generate(**more, stream=True, partial_images=3)
            if kind == "cancelled":
                await stream.close()
                counts["cancelled"] += 1
                return
            async for _ in stream:  # reads one event and stops
                await asyncio.sleep(2)
                break
            await stream.close()
            counts["stopped"] += 1
        except openai.RateLimitError:
            counts["refused"] += 1
        except openai.OpenAIError:
            counts["lost"] += 1

    async def arrive() -> None:
        tasks, end = set[asyncio.Task[None]](), time.monotonic() + seconds
        watching = asyncio.create_task(watch())
        many = openai.AsyncOpenAI(base_url=client.url, api_key="x", max_retries=0)
        while time.monotonic() < end:
            draw = chance.random()
            kind = "cancelled" if draw < 0.2 else "stopped" if draw < 0.3 else "whole"
            tasks.add(asyncio.create_task(ask(many, kind, chance.randrange(seeds))))
            tasks.difference_update([task for task in tasks if task.done()])
            await asyncio.sleep(chance.expovariate(rate))
        await asyncio.gather(*tasks)
        watching.cancel()
        await many.close()

    async def watch() -> None:
        while True:
            held.append(memory())
            await asyncio.sleep(seconds / SAMPLES)

    asyncio.run(arrive())
    held.append(memory())
    took.sort()
    late = {f"p{part}_seconds": took[len(took) * part // 100] for part in (50, 99) if took}
    return {
        **counts,
        **late,
        "rate": rate,
        "seconds": seconds,
        "memory_mb": [round(mb) for mb in held],
        "grown_mb": held[-1] - held[SAMPLES // 10],
    }


def alone(client: Client, pipe: Pipeline, slots: int) -> None:
    """Report what one request costs, and what many do at once."""
    within = lambda function: client.shared.batching.call(function).result()  # noqa: E731
    image = pipe(classes=[0], seed=1)[0]
    buffer = io.BytesIO()
    coding = timed(lambda: image.save(buffer, "PNG", compress_level=1))
    ways = {
        "pipe": lambda: within(lambda: pipe(classes=[0], seed=1)),
        "served": partial(client.one, 0),
    }
    took = in_turn(ways, 40)
    line = {"what": "overhead", "png_ms": 1e3 * coding}
    for name, best in (("", statistics.median), ("least_", min)):
        found = {way: 1e3 * best(times) for way, times in took.items()}
        line |= {f"{name}{way}_ms": ms for way, ms in found.items()}
        line[f"{name}over_ms"] = found["served"] - found["pipe"]
    report(line)
    found = within(lambda: throughput(pipe, slots))
    report({"what": "throughput", **found, "share": found["uniform"] / found["mixed"]})
    together, turns = at_once(client), timed(lambda: [client.one(s) for s in range(8)], 3)
    report({"what": "clients", "at_once": together, "in_turn": turns, "ratio": turns / together})

    def first_partial() -> float:
        began = time.perf_counter()
        stream = client.one(3, stream=True, partial_images=3)
        next(iter(stream))
        first = time.perf_counter() - began
        for _ in stream:
            pass
        return first / (time.perf_counter() - began)

    report({"what": "first partial", "share": statistics.median(first_partial() for _ in range(5))})


def at_once(client: Client) -> float:
    """Seconds of 8 pictures that 8 clients ask for."""

    def ask() -> None:
        threads = [threading.Thread(target=client.one, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return timed(ask, 3)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pipeline")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--dtype", default="float32", help="in bfloat16 batches change pictures")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each rate of arrivals")
    parser.add_argument("--loads", type=float, nargs="+", default=(0.5, 0.9, 1.5))
    parser.add_argument("--arrivals-only", action="store_true", help="leave all else away")
    args = parser.parse_args(arguments)
    threads = compute_alone()
    pipe = load(args.pipeline, dtype=args.dtype)
    client = Client(pipe, args.slots, threads)
    if not args.arrivals_only:
        alone(client, pipe, args.slots)
    capacity = 8 / at_once(client)
    for share in args.loads:
        found = poisson(client, share * capacity, args.seconds)
        report({"what": "poisson", "load": share, **found})


if __name__ == "__main__":
    main()
