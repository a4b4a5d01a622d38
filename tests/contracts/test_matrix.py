"""Any tokenizer with any generator: what docs/models.md says works is trained and drawn here, and
what it says does not is refused, in one line with the reason that stands in the cell."""

import re
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import pytest
import torch

from builders import generate, random_cond
from smalti import modules
from smalti.codes import Reads
from smalti.sampling.noise import Noise
from smalti.sampling.solvers import Solver

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
WORKS = "works"


def table() -> dict[tuple[str, str], str]:
    """The cells of the page by generator and tokenizer."""
    text = PAGE.read_text().split("## Any tokenizer with any generator")[1].split("\n## ")[0]
    head, _, *rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    return {(row[0], name): cell for row in rows for name, cell in zip(head[1:], row[1:])}  # noqa: B905


CELLS = table()


def test_the_page_has_every_pair():
    assert set(CELLS) == {(m, t) for m in modules.MODELS for t in modules.TOKENIZERS}


@cache
def reads_of(model: str) -> Reads:
    item = modules.MODELS[model]
    return item.module(item.tiny()).reads


def fitted(model: str, tokenizer: torch.nn.Module):
    """The tiny configuration of a model for the codes of a tokenizer."""
    config, reads = modules.MODELS[model].tiny(), reads_of(model)
    if any(f.name == "scales" for f in fields(config)) and tokenizer.pyramid:
        config = replace(config, scales=tokenizer.spec.grids)
    return config.fitted(tokenizer, reads if reads.text else Reads(classes=3))


@cache
def made(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    item = modules.TOKENIZERS[name]
    return item.module(item.tiny()).eval()


@pytest.mark.parametrize(("model", "tokenizer"), [k for k, v in CELLS.items() if v == WORKS])
def test_what_works_is_trained_and_drawn(model, tokenizer):
    codes_of = made(tokenizer)
    generator = modules.module_of(fitted(model, codes_of), modules.MODELS)
    generator.learn_from(codes_of)
    assert generator.spec == codes_of.spec
    images = torch.rand(2, 3, *codes_of.size) * 2 - 1
    codes, cond = codes_of.encode(images), random_cond(generator, 2)
    noise = Noise.request(0, 2)
    learned = [p for p in generator.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=1e-2)
    before = [p.detach().clone() for p in learned]
    loss = generator.train().loss(codes, cond, noise=noise).mean()
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    assert any(not torch.equal(a, b) for a, b in zip(before, learned, strict=True))
    drawn = generate(generator.eval(), cond, noise, solver=Solver(steps="4"))
    assert tuple(drawn.shape) == codes_of.spec.shape(2)
    with torch.no_grad():
        pictures = codes_of.decode(drawn)
    assert pictures.shape == images.shape and pictures.isfinite().all()


@pytest.mark.parametrize(("model", "tokenizer"), [k for k, v in CELLS.items() if v != WORKS])
def test_what_does_not_work_is_refused(model, tokenizer):
    codes_of, reason = made(tokenizer), CELLS[model, tokenizer]
    with pytest.raises(ValueError, match=re.escape(reason)) as refused:
        fitted(model, codes_of)
    assert "\n" not in str(refused.value) and reason
