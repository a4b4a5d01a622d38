"""Rows, reveal and grammar of Show-o and Emu3 against outputs of their official code."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, folders, load
from torch import Tensor

from smalti.codes import Cond, Draw, Reads, TokenSpec, Turn
from smalti.engine import masked
from smalti.engine.step import Request
from smalti.heads.categorical import Softmax
from smalti.models.emu3 import Lines
from smalti.models.show_o import Whole
from smalti.sampling.chance import Chance
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.sampling.reveal import Reveal, least_sure
from smalti.text.sequence import CODE, Document, Part, packed, rows_of


@pytest.mark.parametrize("folder", folders("showo_emu3_rules"))
@torch.no_grad()
def test_show_o_and_emu3(folder: Path):
    config, _, io = load(folder)
    check_rows(config, io)
    check_reveal(config, io)
    check_lines(config, io)
    io.done()


# -- rows


def wrapping_of(ids: dict[str, int]) -> Whole:
    return Whole(
        around=(ids["soi"], ids["eoi"]),
        first=ids["code_base"],
        sentence=(ids["bos"], ids["eos"]),
        draws=ids["t2i"],
    )


def check_rows(config: dict[str, Any], io: Vectors) -> None:
    """Compare ids and masks of prompts to draw, and of pictures that are read."""
    ids, count = config["ids"], config["reveal"]["n_tokens"]
    wrapping, pad = wrapping_of(ids), ids["pad"]
    spec = TokenSpec(((1, count),), ids["mask"] - ids["code_base"])
    hidden = Part(torch.full((count,), spec.vocab), spec)
    documents, lead = list[Document](), list[int]()
    for row in io["t2i_ids"]:
        start = int((row == ids["t2i"]).nonzero()[0])
        end = int((row == ids["soi"]).nonzero()[-1])
        documents.append([Part(row[start + 2 : end - 1]), hidden])
        lead.append(start)
    rows = rows_of(documents, wrapping, pad, left=True)
    length, kept = rows.ids.shape[1], rows.kept
    assert torch.equal(rows.ids, io["t2i_ids"][:, -length:]), "upstream pads to a given length"
    theirs = io["t2i_mask"][:, 0, -length:, -length:].bool()
    assert torch.equal(rows.mask()[kept], theirs[kept])
    # padding, which nobody sees, sees the padding before it there: as if it were another document
    bare = Whole(around=wrapping.around, first=wrapping.first)
    padding = [Part(torch.full((n,), pad)) for n in lead]
    written = [wrapping.written(document) for document in documents]
    apart = [[[p], w] for p, w in zip(padding, written, strict=True)]
    io.check("t2i_ids", packed(apart, bare).ids)
    io.check("t2i_mask", packed(apart, bare).mask())
    plain = [[p, *w] for p, w in zip(padding, written, strict=True)]
    io.check("t2i_mask_plain", rows_of(plain, bare).mask())
    check_reading(config, io, bare)


def check_reading(config: dict[str, Any], io: Vectors, wrapping: Whole) -> None:
    """Compare ids and masks of pictures that are read, with a text behind them."""
    ids, documents = config["ids"], list[Document]()
    for row in io["mmu_ids"]:
        begin, end = (int((row == ids[name]).nonzero()[0]) for name in ("soi", "eoi"))
        codes = row[begin + 1 : end] - ids["code_base"]
        spec = TokenSpec(((1, len(codes)),), ids["mask"] - ids["code_base"])
        picture = Part(codes, spec, before=tuple(row[:begin].tolist()))
        documents.append([picture, Part(row[end + 1 :])])
    rows = rows_of(documents, wrapping)
    io.check("mmu_ids", rows.ids)
    io.check("mmu_mask", rows.mask())


# -- reveal


class Stored:
    """A model that gives stored logits, step after step, and notes what is drawn of them."""

    loop, confidence, parts, smooth, reads = "masked", 1.0, 1, False, Reads()

    def __init__(self, logits: Tensor, spec: TokenSpec) -> None:
        self.logits, self.spec = logits, spec
        self.seen = list[tuple[Tensor, Draw, Turn]]()

    def draws(self, spec: TokenSpec | None) -> TokenSpec:
        return self.spec

    def order(self, spec: TokenSpec | None = None) -> None: ...

    def split(self, codes: Tensor) -> Tensor:
        return codes

    def join(self, units: Tensor) -> Tensor:
        return units

    def prepare(self, cond: Cond, spec: TokenSpec | None = None) -> Cond:
        return cond

    def cache(self, batch: int, spec: TokenSpec | None = None) -> None: ...

    def draw(self, codes: Tensor, cond: Cond, turn: Turn, cache: None, chance: Chance) -> Draw:
        draw = Softmax().sample(self.logits[len(self.seen), : cond.batch], chance)
        self.seen.append((torch.where(turn.known, codes, draw.codes), draw, turn))
        return draw


class StoredNoise(Noise):
    """Stored numbers in the place of random ones: of draws, and of how sure the model is."""

    def __init__(self, draws: Tensor, doubts: Tensor) -> None:
        index = torch.arange(draws.shape[1])
        super().__init__(torch.zeros_like(index), index)
        self.stored = torch.stack((draws, doubts), 1).flatten(0, 1)  # (2 steps, B, n)

    def uniform(self, slots: Tensor, width: int = 0, step: int | Tensor = 0) -> Tensor:
        assert isinstance(step, int)
        return self.stored[step].unsqueeze(-1) if width else self.stored[step]


def check_reveal(config: dict[str, Any], io: Vectors) -> None:
    """Compare what the loop of masked models draws and hides, step after step."""
    told, logits = config["reveal"], torch.cat((io["cond_logits"], io["uncond_logits"]), 1)
    steps, batch, count, codes = io["cond_logits"].shape
    reveal = Reveal(told["steps"], "show-o", told["temperature"])
    assert (steps, count) == (told["steps"], told["n_tokens"])
    weights = [reveal.weight(i, steps) for i in range(steps)]
    torch.testing.assert_close(torch.tensor(weights), torch.tensor(told["temperatures_used"]))
    model = Stored(logits, TokenSpec(((1, count),), codes))
    request = Request(
        Cond(labels=torch.zeros(batch, dtype=torch.int64)),
        StoredNoise(io["draw_uniform"], io["gumbel_uniform"]),
        Guidance(1 + told["guidance"]),
        Filters(),
        reveal=reveal,
    )
    found = list(masked.stream(model, request))  # type: ignore[arg-type]
    io.check("sampled", torch.stack([drawn for drawn, _, _ in model.seen]))
    assert torch.equal(found[-1].codes, io["sampled"][-1])
    hidden = [~turn.known for _, _, turn in model.seen[1:]]
    # after the last step one code is hidden there that is given all the same
    _, draw, turn = model.seen[-1]
    sure = draw.logp.masked_fill(turn.known, torch.inf)
    hidden.append(least_sure(sure, torch.ones(batch, dtype=torch.int64)))
    io.check("masked_after", torch.stack(hidden))


# -- lines


def check_lines(config: dict[str, Any], io: Vectors) -> None:
    """Compare what may stand where in a picture, and a picture that was drawn."""
    told, allowed, ids = config["emu3"], io["emu3_allowed"], io["emu3_ids"]
    height, width, visual = told["height"], told["width"], told["visual"]
    first = min(visual)
    assert sorted(visual) == list(range(first, first + len(visual)))
    order = tuple(visual.index(first + i) for i in range(len(visual)))
    lines = Lines(
        around=(told["prompt"][0], told["eoi"]),
        first=first,
        order=order,
        image=told["img"],
        line=told["eol"],
        frame=told["eof"],
    )
    spec = TokenSpec(((height, width),), len(visual))
    planned = torch.tensor([*lines.plan(spec), *lines.end(spec), told["eos"]])
    for i, (mine, theirs) in enumerate(zip(planned, allowed, strict=False)):
        late = i >= height * (width + 1) and (i + 1) % (width + 1) == 0
        assert theirs == (told["eol"] if late else mine), "upstream ends lines past the picture too"
    for i, theirs in enumerate(allowed[len(planned) :], len(planned)):
        assert theirs == (told["pad"] if (i + 1) % (width + 1) else told["eol"])
    prompt = torch.tensor(told["prompt"])
    drawn, forced = ids[len(prompt) :], allowed != CODE
    assert torch.equal(ids[: len(prompt)], prompt)
    assert torch.equal(drawn[forced], allowed[forced])
    places = forced[: height * (width + 1)].logical_not()
    codes = lines.code_of(drawn[: height * (width + 1)][places])
    rows = rows_of([[Part(codes, spec)]], lines)
    begin = len(lines.begin(spec))
    assert rows.ids[0, begin - 1] == prompt[-1]
    end = begin + len(lines.plan(spec))
    written = rows.ids[0, begin:end]
    io.check(
        "emu3_allowed", torch.cat((written.masked_fill(places, CODE), allowed[len(written) :]))
    )
    io.check("emu3_ids", torch.cat((prompt, written, drawn[len(written) :])))
