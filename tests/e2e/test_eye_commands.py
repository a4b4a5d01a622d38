"""Models that read pictures in another form than they draw them, by commands; one line for every
mistake."""

import json

import pytest
from PIL import Image

from small_systems import TOKENIZER, TRAIN, said, write_pictures
from smalti.cli.main import main
from smalti.data.document_file import DocumentCache
from smalti.loading import load_eye, load_unified
from smalti.modules import fingerprint

pytestmark = pytest.mark.usefixtures("float32")
DECODER = "--model.language.layers 1 --model.language.heads 2 --model.language.dim 16"
MODEL = [
    *"--data.source shapes-all:40 --data.holdout 0.25 --row 96 --vocab 280".split(),
    *f"--train.steps 4 {DECODER} --model.language.ffn-dim 16".split(),
    *TRAIN,
]
TOWERS = (
    *("--data.source", "shapes:60", "--train.steps", "2", "--train.batch", "8"),
    *("--model.size", "16", "--model.features", "16"),
    *(f"--model.{tower}.{name}={value}" for tower in ("vision", "text")
      for name, value in (("dim", 16), ("heads", 2), ("layers", 1), ("ffn-dim", 32))),
)  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A tokenizer `t`, towers `e` and `other` of another size, a model `m` that has an eye, and
    pictures."""
    folder = tmp_path_factory.mktemp("work")
    main(["train", "shapes_vqgan", "--out", str(folder / "t"), *TOKENIZER])
    main(["train", "shapes_siglip", "--out", str(folder / "e"), *TOWERS])
    small = [*TOWERS, "--model.patch", "8"]
    main(["train", "shapes_siglip", "--out", str(folder / "other"), *small])
    main(command(folder, "--out", folder / "m", "--eye", folder / "e" / "towers"))
    write_pictures(folder / "pictures", 2)
    return folder


def command(work, *more, recipe="shapes_janus"):
    given = ["train", recipe, "--tokenizer", work / "t" / "tokenizer", *MODEL, *more]
    return [str(word) for word in given]


def mistake(capsys, *arguments) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_a_model_with_an_eye_draws_reads_and_changes_pictures(work, tmp_path, capsys):
    pipe, picture = work / "m" / "pipeline", work / "pictures" / "000.png"
    report = json.loads((work / "m" / "report.json").read_text())
    assert 0 < report["held_out_text"] < 7 and 0 < report["held_out_codes"] < 7
    about = json.loads(said(capsys, "info", pipe, "--json"))
    assert about["eye"]["kind"] == "eye" and about["model"]["eye"] == about["eye"]["fingerprint"]
    said(capsys, "sample", pipe, "--text", "a red heart", "--n", 2, "--guidance", 2, "--out",
         tmp_path / "s.png")  # fmt: skip
    assert Image.open(tmp_path / "s.png").size[0] > 16
    answer = said(capsys, "ask", pipe, "what?", "--image", picture, "--words", 3, "--json")
    assert isinstance(json.loads(answer)["answer"], str)
    captions = tmp_path / "captions.jsonl"
    said(capsys, "caption", pipe, work / "pictures", "--out", captions, "--words", 3)
    assert len(captions.read_text().splitlines()) == 2
    said(capsys, "edit", pipe, "--image", picture, "--instruct", "make it blue", "--out",
         tmp_path / "e.png")  # fmt: skip
    assert Image.open(tmp_path / "e.png").size == (16, 16)


@pytest.mark.slow
def test_documents_are_seen_once_and_a_run_goes_on(work, tmp_path, capsys):
    eye = load_eye(work / "e" / "towers")
    assert DocumentCache(work / "m" / "documents.arrow").eye == fingerprint(eye)
    mine = load_unified(work / "m" / "pipeline").eye
    assert mine is not None and fingerprint(mine) == fingerprint(eye)
    out = tmp_path / "d.arrow"
    said(capsys, "encode", "shapes-all:20", "--tokenizer", work / "t" / "tokenizer", "--eye",
         work / "m" / "pipeline", "--out", out)  # fmt: skip
    assert DocumentCache(out).eye == fingerprint(eye)
    main(command(work, "--out", tmp_path / "m", "--eye", work / "e" / "towers", "--documents", out))
    for more in ((), ("--eye", work / "m" / "pipeline")):
        main(command(work, "--out", tmp_path / f"on{len(more)}", "--init", work / "m" / "pipeline",
                     *more))  # fmt: skip
        assert (tmp_path / f"on{len(more)}" / "pipeline" / "eye" / "config.json").is_file()
    plain = command(work, "--out", tmp_path / "c", "--documents", out, recipe="shapes_chameleon")
    main(plain)  # a file with an eye serves a model without one
    assert not (tmp_path / "c" / "pipeline" / "eye").exists()


@pytest.mark.slow
def test_a_model_draws_latents_in_any_order_and_reads_by_an_eye(work, tmp_path, capsys):
    numbers = "--model.size 16 16 --model.channels 8 --model.latent 4 --train.steps 4".split()
    main(["train", "shapes_klvae_2x2", "--data.source", "shapes:64", *numbers, *TRAIN, "--out",
          str(work / "k")])  # fmt: skip
    head = "--model.head.depth 1 --model.head.width 8".split()
    main(command(work, "--tokenizer", work / "k" / "tokenizer", "--out", work / "u", *head, "--eye",
                 work / "e" / "towers", recipe="shapes_unifluid"))  # fmt: skip
    report, pipe = json.loads((work / "u" / "report.json").read_text()), work / "u" / "pipeline"
    assert 0 < report["held_out_text"] < 7 and report["held_out_diffusion"] > 0
    assert (work / "u" / "previews" / "step-00000004.png").is_file()
    few, pictures = ("--n", 2, "--head-steps", 2, "--text", "a red heart"), []
    for name, order in (("random", ()), ("raster", ("--order", "row-major"))):
        told = json.loads(said(
            capsys, "sample", pipe, *few, *order, "--out", tmp_path / name, "--json"
        ))  # fmt: skip
        assert told["images"][0]["order"] == (order[1] if order else "random")
        pictures.append((tmp_path / name / "000000.png").read_bytes())
    assert pictures[0] != pictures[1]
    picture, painted = work / "pictures" / "000.png", tmp_path / "painted.png"
    assert said(capsys, "ask", pipe, "what?", "--image", picture, "--words", 3).endswith("\n")
    said(capsys, "edit", pipe, "--image", picture, "--instruct", "make it blue", "--head-steps", 2,
         "--out", tmp_path / "e.png")  # fmt: skip
    mask = Image.new("L", Image.open(picture).size)
    mask.paste(255, (0, 0, 8, 8))
    mask.save(tmp_path / "mask.png")
    said(capsys, "edit", pipe, "--image", picture, "--mask", tmp_path / "mask.png", "--text", "a",
         "--head-steps", 2, "--out", painted)  # fmt: skip
    assert Image.open(painted).size == Image.open(tmp_path / "e.png").size == (16, 16)
    wrong = ("sample", pipe, *few, "--out", tmp_path / "x.png")
    assert "solved by ancestral, ddim, dpm" in mistake(capsys, *wrong, "--solver", "euler")
    assert "order must be one of row-major" in mistake(capsys, *wrong, "--order", "spiral")
    line = mistake(capsys, *command(work, "--out", tmp_path / "m", "--eye", work / "e" / "towers",
                                    recipe="shapes_unifluid"))  # fmt: skip
    assert "UniFluid writes pictures of one grid of codes" in line


def test_eyes_that_do_not_fit_are_named(work, tmp_path, capsys):
    eye, other, pipe = work / "e" / "towers", work / "other" / "towers", work / "m" / "pipeline"
    out = ["--out", tmp_path / "m"]
    line = mistake(capsys, *command(work, *out))
    assert "reads pictures by an eye" in line and "give --eye DIR" in line
    line = mistake(capsys, *command(work, *out, "--eye", eye, recipe="shapes_chameleon"))
    assert "OneVocabulary reads pictures as the codes that it draws: it takes no eye" in line
    line = mistake(capsys, *command(work, *out, "--eye", work / "t"))
    assert "holds no towers" in line
    line = mistake(capsys, *command(work, *out, "--eye", other, "--init", pipe))
    assert "the model reads 4 x 4 vectors of 16 numbers, of any length; the eye gives 2 x 2" in line
    documents = ["--documents", work / "m" / "documents.arrow"]
    line = mistake(capsys, *command(work, *out, "--eye", other, *documents))
    assert "was seen by eye" in line and "encode the documents again" in line
    line = mistake(capsys, "encode", "shapes:9", "--tokenizer", work / "t" / "tokenizer", "--eye",
                   eye, "--out", tmp_path / "c.arrow")  # fmt: skip
    assert "--eye is for documents, got images: shapes:9" in line
    assert not (tmp_path / "m" / "pipeline").exists()
