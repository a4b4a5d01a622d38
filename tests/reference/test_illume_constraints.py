"""The grammar of ILLUME+'s pictures, its guidance and its filters, against its official code."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, folders, load
from torch import Tensor, nn

from smalti.codes import Cond
from smalti.engine import causal
from smalti.engine.step import Request
from smalti.models.illume import Illume, IllumeConfig
from smalti.models.language import LanguageConfig
from smalti.models.unified import Marks, places
from smalti.nn.attention import KVCache
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.text.sequence import CODE, Part, Rows, rows_of

LEAST = -1e30
"""What stands in the golden scores where an id may not be."""


def config_of(told: dict[str, Any]) -> IllumeConfig:
    ids, (first, middle), (begin, last) = (
        told["special_ids"],
        told["level0_range"],
        told["level1_range"],
    )
    assert middle == begin, "the codes of both levels stand one behind the other"
    return IllumeConfig(
        LanguageConfig(told["vocab"], 1, 1, 4, 4),
        grid=tuple(told["level1_grid"]),
        codes=last - first,
        semantic=tuple(told["level0_grid"]),
        semantic_codes=middle - first,
        first=first,
        begin=ids["start_of_image"],
        end=ids["end_of_image"],
        line=ids["end_of_line"],
        levels=tuple((ids[f"start_of_level{k}"], ids[f"end_of_level{k}"]) for k in (0, 1)),
        sides=(2, 3),
        seen=(),
        marks=Marks(None, (ids["end_of_text"],), ids["end_of_text"]),
    )  # fmt: skip


def filters_of(told: dict[str, Any], levels: slice | int) -> Filters:
    names = ("temperature", "top_k", "top_p")
    return Filters(**{
        name: tuple(told[name][levels]) if isinstance(levels, slice) else told[name][levels]
        for name in names
    })  # fmt: skip


class Stored(Illume):
    """A model that gives stored logits (steps, V), conditional and not, by the last position read;
    nothing else."""

    def __init__(self, config: IllumeConfig, logits: tuple[Tensor, Tensor], begin: int) -> None:
        super().__init__(config)
        self.stored, self.begin = torch.stack(logits), begin  # (2, steps, V)

    def read(self, rows: Rows, begin: int, end: int, cache: KVCache | None) -> Tensor:
        return self.stored[:, end - self.begin].unsqueeze(1)

    def logits(self, h: Tensor) -> Tensor:
        return h

    def cache(self, batch: int, length: int) -> Any:
        return None


@pytest.mark.parametrize("folder", folders("illume_constraints"))
@torch.no_grad()
def test_illume_constraints(folder: Path):
    told, _, io = load(folder)
    config = config_of(told)
    cond, away = io["cond_logits"], io["uncond_logits"]
    assert io["prompt_ids"][0, -1] == config.begin
    wrapping, spec = config.wrapping, config.spec
    planned = [*wrapping.plan(spec), *wrapping.end(spec)]
    scores = scores_of(told, config, io, planned)
    kept = io["scores"] > LEAST
    io.check("scores", torch.stack(scores), size=io["scores"][kept].abs().max().item())
    io.check("tokens", torch.stack(scores).argmax(-1))
    # the loop draws the same codes behind the same ids
    model = Stored(config, (cond, away), 3)
    documents = [[Part(spec.empty(1)[0], spec)]] * 2
    rows = rows_of(documents, wrapping)
    given = filters_of(told, slice(1, None))
    greedy = Filters(given.temperature, (1, 1), given.top_p)
    request = Request(
        Cond(labels=torch.tensor([0])), Noise.request(0, 1), Guidance(told["guidance"]), greedy,
        negative=Cond(labels=torch.tensor([1])),
    )  # fmt: skip
    *_, last = causal.stream(model.picture(rows), request)
    drawn = [i for i, planned_id in enumerate(planned) if planned_id == CODE]
    codes = wrapping.code_of(io["tokens"][drawn])
    assert torch.equal(last.codes[0], codes)
    assert [i - 3 for i in places(wrapping, spec, rows.ids.shape[1])] == drawn
    io.done()


def scores_of(
    told: dict[str, Any], config: IllumeConfig, io: Vectors, planned: list[int]
) -> list[Tensor]:
    """What is left of logits at each step: guided, restricted by the plan, and filtered."""
    guide = Guidance(told["guidance"]).at(0, 1)
    around = [*config.levels, (-1, -1)]
    found, level, inside = list[Tensor](), 0, False
    tokens = [*planned, config.marks.stops[0]][: len(io["scores"])]
    for i, wanted in enumerate(tokens):
        both = torch.stack((io["cond_logits"][i], io["uncond_logits"][i]))
        merged = guide.merge(nn.functional.log_softmax(both, -1))[0]
        row, ids = torch.full_like(merged, LEAST), torch.tensor([wanted])
        if wanted == CODE:
            ids = torch.arange(*told[f"level{level}_range"])
        filters = filters_of(told, 1 + level if inside else 0)
        row[ids] = filters(merged[ids]).clamp(min=LEAST)
        found.append(row)
        begin, end = around[level]
        inside = (inside or wanted == begin) and wanted != end
        level += wanted == end
    return found
