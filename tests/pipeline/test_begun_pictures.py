"""Who begins a picture in a conversation: the model, where it has learned to, or nobody."""

import io

import pytest
import torch

from smalti.cli.main import main
from smalti.data.documents import Piece
from smalti.pipeline.conversation import Turn
from smalti.pipeline.unified import Said, Shown, UnifiedPipeline
from smalti.runs.unified import wrapped
from smalti.text.sequence import rows_of
from smalti.train.joint import JointConfig, batch_of
from smalti.train.optim import OptimConfig, adamw
from unified_pipelines import made

ASKED = {"draw a red heart": None, "draw a blue star": None, "what is it?": "a red heart"}
"""What is said, and the reply; None: a picture."""


def taught() -> UnifiedPipeline:
    """A pipeline that has learned these replies by heart."""
    pipe = made("show_o", learns_begin=True)
    spec, model = pipe.model.spec, pipe.model.train().requires_grad_(True)
    codes = torch.arange(spec.positions) % spec.vocab
    documents = [
        wrapped([Piece(f"{said}\n", learned=False),
                 Piece(f"{reply}\n") if reply else Piece(codes=codes)], model, pipe.words)
        for said, reply in ASKED.items()
    ]  # fmt: skip
    batch = batch_of(rows_of(documents, model.wrapping, model.marks.pad))
    batch["shuffle"] = torch.arange(len(documents))
    objective = JointConfig(over="kinds").objective(model)
    optimizer = adamw(model, OptimConfig(lr=1e-2))
    for step in range(40):
        objective(batch, step).totals["model"].backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().requires_grad_(False)
    return pipe


def test_a_conversation_has_a_picture_where_one_is_asked_for():
    pipe = taught()
    for asked, reply in ASKED.items():
        events = list(pipe.chat([Turn("user", [asked])], words=13, steps=2, guidance=1.0))
        drawn = [e for e in events if isinstance(e, Shown) and e.whole]
        told = [e.text.strip() for e in events if isinstance(e, Said) and e.whole]
        assert (told, len(drawn)) == (([reply], 0) if reply else ([""], 1))


@pytest.mark.parametrize(
    ("kind", "changes", "begins"),
    [
        ("show_o", {}, False),
        ("show_o", {"learns_begin": True}, True),
        ("one_vocabulary", {"learns_begin": False}, False),
        ("transfusion", {}, True),
        ("flamingo", {}, False),
    ],
)
def test_who_begins_pictures(kind, changes, begins):
    assert made(kind, **changes).begins == begins


def test_chat_says_when_the_model_does_not_begin_pictures(tmp_path, monkeypatch, capsys):
    for name, begins in (("told", False), ("decides", True)):
        made("show_o", learns_begin=begins).save_pretrained(tmp_path / name)

    def said(*words: str) -> list[str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(""))
        main(["chat", *words, "--out", str(tmp_path / "chat")])
        return [line for line in capsys.readouterr().err.splitlines() if "begin" in line]

    line = "the model does not begin pictures by itself: it replies in text; sample and edit draw"
    assert said(str(tmp_path / "told")) == [line]
    assert said(str(tmp_path / "told"), "--pictures", "0") == []
    assert said(str(tmp_path / "decides")) == []
