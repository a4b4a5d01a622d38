"""What a server tells of itself, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from smalti.engine.waiting import Drawn
from smalti.pipeline.coded import short
from smalti.serve.shared import Shared
from smalti.serve.talker import Talker

VERSION = version("smalti")
SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Counted(Collector):
    """What batches count themselves, read when it is asked for."""

    def __init__(self, shared: Sequence[Shared | Talker]) -> None:
        self.shared = shared

    def collect(self) -> Iterable[Metric]:
        steps = CounterMetricFamily("smalti_steps", "Passes of the model", labels=["pipeline"])
        rows = CounterMetricFamily("smalti_rows", "Pictures of all passes", labels=["pipeline"])
        labels = ["pipeline", "outcome"]
        previews = CounterMetricFamily("smalti_previews", "Pictures on the way", labels=labels)
        for one in self.shared:
            counts = one.batching.counts
            steps.add_metric([one.name], counts.passes)
            rows.add_metric([one.name], counts.rows)
            previews.add_metric([one.name, "shown"], counts.shown)
            previews.add_metric([one.name, "dropped"], counts.dropped)
        return [steps, rows, previews]


class Metrics:
    """The numbers of one server; all begin with `smalti_`."""

    def __init__(self, shared: Sequence[Shared | Talker]) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests answered", "route", "status")
        self.pictures = self._counter("pictures", "Pictures asked for", "pipeline", "outcome")
        self.answered = self._seconds("request", "From a request to the end of its answer", "route")
        self.queued = self._seconds("queue", "From asking to the first step")
        self.drawing = self._seconds("draw", "From the first step to the last")
        self.decoding = self._seconds("decode", "From the last step to the picture")
        self.encoding = self._seconds("encode", "In which the picture of an edit was encoded")
        self.first = self._seconds("first_partial", "From asking to the first picture on the way")
        self._about(shared)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"smalti_{name}_total", what, labels, registry=self.registry)

    def _seconds(self, name: str, what: str, label: str = "pipeline") -> Histogram:
        return Histogram(
            f"smalti_{name}_seconds", what, [label], registry=self.registry, buckets=SECONDS
        )

    def _about(self, shared: Sequence[Shared | Talker]) -> None:
        """What is read when it is asked for."""

        def gauge(name: str, what: str, value: Any) -> None:
            found = Gauge(f"smalti_{name}", what, ["pipeline"], registry=self.registry)
            for one in shared:
                found.labels(one.name).set_function(lambda one=one: value(one))

        gauge("queue_pictures", "Pictures that wait", lambda s: s.batching.waiting)
        gauge("slots_busy", "Pictures that are being drawn", lambda s: s.batching.drawing)
        gauge("slots", "Pictures that can be drawn at once", lambda s: s.batching.slots)
        self.registry.register(Counted(shared))
        build = Gauge(
            "smalti_build_info",
            "What runs",
            ["version", "torch", "pipeline", "device", "dtype"],
            registry=self.registry,
        )
        for one in shared:
            about = (one.pipeline.device.type, short(one.pipeline.dtype))
            build.labels(VERSION, torch.__version__, one.name, *about).set(1)

    def drawn(self, pipeline: str, event: Drawn) -> None:
        """Note how long a picture that is done took."""
        self.queued.labels(pipeline).observe(event.waited)
        self.drawing.labels(pipeline).observe(event.drawing)
        self.decoding.labels(pipeline).observe(event.decoding)

    def text(self) -> bytes:
        return generate_latest(self.registry)
