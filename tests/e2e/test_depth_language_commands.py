"""Language models of stacks of codes by commands: a tokenizer that learns with captions, a model
trained on its codes, drawn from with filters of each code, asked; one line for every mistake."""

import json

import pytest
from PIL import Image

from small_systems import TRAIN, said, write_pictures
from smalti.cli.main import main

pytestmark = pytest.mark.usefixtures("float32")
TOKENIZER = [
    *"--data.source shapes:64 --model.size 16 16 --objective.text.dim 16".split(),
    *"--objective.text.layers 1 --objective.text.heads 2 --objective.codebook.warmup 2".split(),
    *"--model.vocab 16 --model.depth 2 --train.steps 4".split(),
    *TRAIN,
]
TOWER = (
    "--model.channels 8 --model.latent 8 --model.vision.layers 2 --model.vision.heads 2 "
    "--model.vision.dim 16 --model.vision.ffn-dim 16"
).split()
UNITOK = (
    "--model.widths 8 --model.blocks 1 --model.layers 1 --model.heads 2 --model.width 16 "
    "--model.dim 8 --model.features 8"
).split()
MODEL = [
    *"--data.source shapes-all:40 --data.holdout 0.25 --row 96 --vocab 280".split(),
    *"--model.language.layers 1 --model.language.heads 2 --model.language.dim 16".split(),
    *"--model.language.ffn-dim 16 --model.head.layers 1 --model.head.heads 2".split(),
    *"--model.head.dim 16 --train.steps 4".split(),
    *TRAIN,
]
SYSTEMS = {
    "shapes_vilau": ("shapes_vilau_tower", TOWER, []),
    "shapes_unitok": ("shapes_unitok32", UNITOK, "--model.width 16 --model.heads 2".split()),
}


@pytest.fixture(scope="module", params=SYSTEMS)
def work(request, tmp_path_factory):
    """A folder with the run of a tokenizer `t`, of a model `g`, and pictures."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer, sizes, more = SYSTEMS[request.param]
    main(["train", tokenizer, *TOKENIZER, *sizes, "--out", str(folder / "t")])
    given = ["--tokenizer", str(folder / "t" / "tokenizer"), "--out", str(folder / "g")]
    main(["train", request.param, *given, *MODEL, *more])
    write_pictures(folder / "pictures", 1)
    return folder


def mistake(capsys, *arguments) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    assert stop.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_from_shapes_to_pictures_and_answers(work, tmp_path, capsys):
    lines = [json.loads(line) for line in (work / "t" / "metrics.jsonl").read_text().splitlines()]
    assert any("contrastive" in line and "retrieval" in line for line in lines)
    report = json.loads((work / "g" / "report.json").read_text())
    assert 0 < report["held_out_codes"] < 4  # nats of a code out of 16
    assert 0 < report["held_out_bits_per_byte"] < 10
    pipe, picture = work / "g" / "pipeline", work / "pictures" / "000.png"
    about = json.loads(said(capsys, "info", pipe, "--json"))
    assert about["model"]["type"] == "depth_language"
    out = tmp_path / "s.png"
    told = json.loads(said(
        capsys, "sample", pipe, "--text", "a red heart", "--n", 2, "--guidance", 2, "--top-k",
        "5,3", "--out", out, "--json",
    ))  # fmt: skip
    assert [image["top_k"] for image in told["images"]] == [[5, 3]] * 2
    assert Image.open(out).size[0] > 16
    assert said(capsys, "ask", pipe, "what is it?", "--image", picture, "--words", 3).endswith("\n")
    said(capsys, "edit", pipe, "--image", picture, "--instruct", "make it blue", "--out",
         tmp_path / "e.png")  # fmt: skip
    assert Image.open(tmp_path / "e.png").size == (16, 16)


def test_mistakes_are_one_line(work, tmp_path, capsys):
    pipe = work / "g" / "pipeline"
    wrong = ("sample", pipe, "--text", "a", "--top-k", "5,3,1", "--out", tmp_path / "x.png")
    assert "one for each of the 2 codes of a position" in mistake(capsys, *wrong)
    given = ["--tokenizer", work / "t" / "tokenizer", "--data.source", "shapes-all:20"]
    wrong = ("train", "shapes_chameleon", *given, "--out", tmp_path / "r")
    assert "the tokenizer gives 1 of codes out of 16, 2 at each position" in mistake(capsys, *wrong)
    assert not (tmp_path / "r").exists()
