"""Models of text and pictures on each device, in float32, beside the CPU in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from smalti import modules
from smalti.codes import Cond
from smalti.engine import mixed
from smalti.engine.step import Request
from smalti.models.unified import Unified
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.sampling.solvers import Solver
from smalti.text.sequence import Part, packed
from smalti.train.joint import JointConfig, batch_of
from smalti.train.optim import OptimConfig, adamw

pytestmark = pytest.mark.usefixtures("exact")
WORDS = 4
"""Ids of text, from 0, that every tiny model has."""
CPU = torch.device("cpu")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(params=sorted(modules.UNIFIED))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def made(name: str, device: torch.device, dtype: torch.dtype) -> Unified:
    """A tiny model whose weights are large enough to tell ids apart."""
    entry = modules.UNIFIED[name]
    torch.manual_seed(0)
    model = entry.module(entry.tiny())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.to(device, dtype)


def text(*ids: int) -> Part:
    return Part(torch.tensor(ids))


def picture(model: Unified) -> Part:
    """Some codes; of a model that draws none, what an eye sees."""
    like = model.spec.empty(1)[0]
    torch.manual_seed(1)
    if model.spec.discrete:
        return Part(torch.randint(0, model.spec.vocab, like.shape), model.spec)
    drawing = model.config.drawing
    return Part(torch.randn(like.shape), model.spec, learned=drawing, seen=not drawing)


def trained(model: Unified, device: torch.device) -> list[float]:
    """The losses of three steps on rows of several documents."""
    shown = picture(model)
    documents = [[[text(1, 3), shown], [text(2, 1, 0)]], [[shown, text(2, 3)]]]
    batch = {n: t.to(device) for n, t in batch_of(packed(documents, model.wrapping)).items()}
    batch["shuffle"] = torch.arange(2, device=device)
    if "vectors" in batch:
        batch["vectors"] = batch["vectors"].to(next(model.parameters()).dtype)
    objective, losses = JointConfig().objective(model.train()), list[Tensor]()
    optimizer = adamw(model, OptimConfig(lr=1e-3))
    for step in range(3):
        found = objective(batch, step)
        found.totals["model"].backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(found.logs["loss"])
    return torch.stack(losses).tolist()


def drawn(model: Unified, device: torch.device) -> list[Tensor]:
    """A picture, of models that draw, and the text behind it of each document, with guidance."""
    documents = [[text(1, 3)], [text(2, 1, 0, 3), picture(model), text(3)]]
    how: Any = Request(
        Cond(labels=torch.arange(2, device=device)),
        Noise.request(3, 2, 0, device),
        Guidance(2.0),
        solver=Solver(steps="3"),
    )
    wish = mixed.MixedRequest(
        documents, how, torch.arange(model.vocab) < WORDS, text=Filters(top_k=2), penalty=1.2,
        most=4, pictures=int(model.config.drawing),
        first="picture" if model.config.drawing else "text",
    )  # fmt: skip
    with torch.no_grad():
        events = list(mixed.stream(model.eval(), wish))
    return [e.part.content for e in events if isinstance(e, mixed.Finished)]


def test_a_step_of_training(name: str, device: torch.device) -> None:
    losses = trained(made(name, device, torch.float32), device)
    exact = trained(made(name, CPU, torch.float64), CPU)
    assert losses == pytest.approx(exact, rel=1e-4) and losses[2] < losses[0]


def test_pictures_and_text(name: str, device: torch.device) -> None:
    model = made(name, device, torch.float32)
    found = drawn(model, device)
    exact = drawn(made(name, CPU, torch.float64), CPU)
    assert len(found) == (4 if model.config.drawing else 2)
    for mine, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=1e-3, atol=1e-3)
