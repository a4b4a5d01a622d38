"""Transfusion against outputs of lucidrains/transfusion-pytorch.

Loops here compute every row anew at each step: the slow version of what is drawn.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, close, float32, folders, load
from torch import Tensor
from torch.nn import functional as F

from smalti.codes import Cond, TokenSpec
from smalti.engine import mixed
from smalti.engine.step import Request
from smalti.interop.pickles import Checkpoint
from smalti.interop.projects.transfusion import model_sizes, model_state
from smalti.models.transfusion import Transfusion, TransfusionConfig
from smalti.modules import assemble
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.sampling.solvers import Solver
from smalti.text.sequence import IGNORED, Part, Rows, rows_of

DEFAULTS = {"add_pos_emb": False, "model_output_clean": False}
TRUNK = {
    **{"dim_head": 64, "heads": 8, "use_value_residual": True, "unet_skips": True},
    **{"qk_rmsnorm": True, "softcap": 50.0, "gate_values": True},
}
"""Of the official constructors, where a folder leaves them out."""


def made(config: dict[str, Any], weights: dict[str, Tensor]) -> Transfusion:
    """The model of a file of these weights: all but two settings it says itself."""
    told = DEFAULTS | config["constructor"]
    trunk = TRUNK | told["transformer"]
    settings = {
        "words": told["num_text_tokens"],
        "channels": told["dim_latent"],
        "layers": trunk["depth"],
        "heads": trunk["heads"],
        "head_dim": trunk["dim_head"],
        "dim": trunk["dim"],
        "skips": trunk["unet_skips"],
        "value_residual": trunk["use_value_residual"],
        "qk_norm": trunk["qk_rmsnorm"],
        "gated": trunk["gate_values"],
        "places": told["add_pos_emb"],
    }
    file = Checkpoint(Path("x.pt"), float32(weights), {})
    cap, clean = trunk["softcap"], told["model_output_clean"]
    ours = model_sizes(file, tuple(config["infer"]["shape"]), cap, clean)
    assert {name: getattr(ours, name) for name in settings} == settings
    ids = config["ids"]
    assert [ids["sos"] + i for i in range(7)] == [
        *(ids["sos"], ids["eos"], ids["null_text"], *ids["som"], *ids["eom"]),
        *(ids["meta"], ids["char_offset"]),
    ]
    assert ids["total"] == ours.vocab
    return assemble(Transfusion, ours, model_state(file.state, ours), "x.pt")


def picture(latent: Tensor) -> Part:
    """A latent (h, w, C)."""
    height, width, channels = latent.shape
    return Part(latent.flatten(0, 1), TokenSpec(((height, width),), channels=channels))


def words(*ids: Tensor | int) -> Part:
    return Part(torch.cat([torch.as_tensor(i).view(-1) for i in ids]))


def batch_of(config: dict[str, Any], io: Vectors) -> list[list[Part]]:
    ids, documents = config["ids"], list[list[Part]]()
    for names in config["batch"]:
        parts = [picture(io[n]) if "latent" in n else words(io[n]) for n in names]
        documents.append([words(ids["sos"]), *parts, words(ids["eos"])])
    return documents


def times_of(rows: Rows, times: Tensor) -> Tensor:
    """The time of each position, of times (B, pictures)."""
    padded = F.pad(times, (1, 0))  # none of words
    return padded.gather(1, rows.spans.clamp(max=times.shape[1]))


@pytest.mark.parametrize("folder", folders("transfusion"))
@torch.no_grad()
def test_transfusion(folder: Path):
    config, weights, io = load(folder)
    model = made(config, weights)
    check_training(model, config, io)
    check_drawing(model, config, io)
    check_text(model, config, io)
    io.done()


def check_training(model: Transfusion, config: dict[str, Any], io: Vectors) -> None:
    """Compare rows, hidden states and losses."""
    rows = rows_of(batch_of(config, io), model.wrapping, pad=-1)
    io.check("text_ids", rows.ids)
    before = rows.kept[:, :-1]  # upstream computes no last position
    assert torch.equal(rows.positions[:, :-1][before], io["rotary_positions"][before])
    for i, (row, told) in enumerate(zip(rows.spans, io["modality_positions"], strict=True)):
        for number, (_, offset, length) in enumerate(told.tolist(), 1):
            there = (row == number).nonzero().flatten()
            assert there.tolist() == list(range(offset, offset + length)), i
    mask = rows.mask()[:, :-1, :-1]
    for ours, theirs, kept in zip(mask, io["attn_mask"].bool(), before, strict=True):
        assert torch.equal(ours[kept], theirs[kept])

    times = times_of(rows, io["times"])
    noise = torch.zeros_like(rows.vectors)
    noise[rows.drawn] = io["noise_flat"]
    share = times[..., None]
    seen = share * rows.vectors + (1 - share) * noise
    h = model.hidden(rows, times, seen)
    close(h[:, :-1][before], io["final_hidden"][before])
    close(model.logits(h)[:, :-1][before], io["text_logits"][before])
    io.check("pred_flow_flat", model.flow(h, seen, times)[rows.drawn])

    losses, total = model.losses(rows, times, noise), rows.kept.sum()
    io.check("total_tokens", total)
    learned, drawn = (losses.text > 0).sum(), rows.drawn.sum()
    text, flow = losses.text.sum() / learned, losses.flow.sum() / drawn
    io.check("loss_text", text)
    io.check("loss_flow", flow)
    io.check("loss_total", text * learned / total + flow * drawn / total)


def check_drawing(model: Transfusion, config: dict[str, Any], io: Vectors) -> None:
    """Compare a picture drawn behind a text, with guidance, and the text behind it. Upstream keeps
    the keys of the last evaluation of the flow, not those of the picture."""
    told, ids = config["infer"], config["ids"]
    assert told["method"] == "midpoint"
    height, width = told["shape"]
    prompt = words(ids["sos"], io["text_0"])
    noise = io["init_noise"][: height * width].view(height, width, -1)

    def flow(latent: Tensor, time: float) -> Tensor:
        rows = rows_of([[prompt, picture(latent)]], model.wrapping)
        rows = Rows(*(t[:, :-1] if t is not None else t for t in rows))  # nothing is behind it
        null = rows._replace(ids=rows.ids.masked_fill(~rows.drawn, ids["null_text"]))
        found = list[Tensor]()
        for some in (rows, null):
            times = rows.drawn * time
            h = model.hidden(some, times)
            found.append(model.flow(h, some.vectors, times)[some.drawn])
        given, nothing = found
        return (nothing + told["cfg"] * (given - nothing)).view_as(latent)

    steps, latent = torch.linspace(0, 1, told["steps"]).tolist(), noise
    for begin, end in zip(steps, steps[1:], strict=False):
        middle, half = (begin + end) / 2, (end - begin) / 2
        between = latent + half * flow(latent, begin)
        latent = latent + 2 * half * flow(between, middle)
    for name in ("sample_image_cached", "sample_image_uncached"):
        io.check(name, latent, share=1e-4)
    close(by_loop(model, prompt, noise, Guidance(told["cfg"]), told["steps"] - 1), latent)

    rows = rows_of([[prompt, picture(between)]], model.wrapping)
    while rows.ids[0].ne(-1).sum() < len(io["sample_text"]):
        logits = model.logits(model.hidden(rows, rows.drawn * middle))[0, -1]
        rows = longer(rows, logits.argmax())
    io.check("sample_text", rows.ids[rows.ids != -1])


def by_loop(
    model: Transfusion, prompt: Part, noise: Tensor, guidance: Guidance, steps: int
) -> Tensor:
    """The picture (h, w, C) that the loop draws behind a text, which it reads once."""
    height, width, _ = noise.shape
    model.spec = replace(model.spec, grids=((height, width),))
    how = Request(
        Cond(labels=torch.arange(1)), Given(noise), guidance, solver=Solver("midpoint", str(steps))
    )
    nothing = torch.zeros(model.vocab, dtype=torch.bool)
    wish = mixed.MixedRequest([[prompt]], how, nothing, first="picture")
    *_, end = mixed.stream(model, wish)
    assert isinstance(end, mixed.Finished)
    return end.part.content.view_as(noise)


class Given(Noise):
    """Noise (h, w, C) of one picture that is given."""

    def __init__(self, numbers: Tensor) -> None:
        super().__init__(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
        self.numbers = numbers.flatten(0, 1).unsqueeze(0)

    def turn(self, number: int, rows: Tensor) -> Noise:
        return self

    def normal(self, slots: Tensor, width: int = 0, step: int = 0) -> Tensor:
        return self.numbers


def longer(rows: Rows, word: Tensor) -> Rows:
    """With one word more."""
    more = [F.pad(t, (0, 1)) for t in rows[:4]]
    more[0][:, -1], more[1][:, -1] = word, True
    positions = torch.cat((rows.positions, rows.positions[:, -1:] + 1), 1)
    cells = F.pad(rows.cells, (0, 0, 0, 1))
    vectors = None if rows.vectors is None else F.pad(rows.vectors, (0, 0, 0, 1))
    return Rows(*more, positions, cells, vectors)


def check_text(model: Transfusion, config: dict[str, Any], io: Vectors) -> None:
    """Compare rows of text alone, whose loss knows no ids but words, and the start and the end."""
    for name in io.runs(r"(text_\d+|latent_\d+)"):  # of which not all are in a batch
        io.get(name)
    rows = rows_of([[words(ids)] for ids in io["text_only_prompt"]], model.wrapping)
    for _ in range(io["text_only_greedy"].shape[1]):
        logits = model.logits(model.hidden(rows, torch.zeros_like(rows.ids).float()))[:, -1]
        rows = longer(rows, logits.argmax(-1))
    io.check("text_only_greedy", rows.ids[:, io["text_only_prompt"].shape[1] :])
    batch = rows_of([[words(ids)] for ids in io["text_only_batch"]], model.wrapping)
    logits = model.logits(model.hidden(batch, torch.zeros_like(batch.ids).float()))
    known = torch.arange(model.config.vocab) < model.config.words
    logits = logits.masked_fill(~known, -torch.inf)[:, :-1]
    nats = F.cross_entropy(logits.mT, batch.labels[:, 1:], ignore_index=IGNORED)
    io.check("text_only_loss", nats)


def test_a_mixture_of_settings_computes_something_else():
    """Each setting that no folder has changes the result."""
    torch.manual_seed(0)
    small = TransfusionConfig(words=20, channels=4, layers=3, heads=2, head_dim=8, dim=16)
    document = [words(20, 3), picture(torch.randn(2, 2, 4)), words(5)]
    rows, seen = rows_of([document], small.wrapping), list[Tensor]()
    changes = ["skips", "qk_norm", "gated", "places", "value_residual", "clean"]
    for setting in ({}, {"cap": 0.1}, *({name: not getattr(small, name)} for name in changes)):
        torch.manual_seed(1)
        model = Transfusion(replace(small, **setting)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.linspace(-0.5, 0.5, parameter.numel()).view_as(parameter))
            losses = model.losses(rows, rows.drawn * 0.3, torch.randn(1, 13, 4))
        assert losses.text.isfinite().all() and losses.flow.isfinite().all()
        seen.append(torch.cat((losses.text, losses.flow)))
    assert all((a - b).abs().max() > 1e-6 for i, a in enumerate(seen) for b in seen[:i])
