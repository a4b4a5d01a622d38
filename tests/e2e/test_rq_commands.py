"""RQ-VAE by the real commands: trained, measured, its codes kept, and read back by depth."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from small_systems import TRAIN
from smalti.cli.main import main
from smalti.config import read_json
from smalti.data.token_cache import TokenCache
from smalti.modules import TOKENIZERS, load_module
from smalti.recipes.rq import emoji_rq, emoji_rq64, rq_vae, rq_vae_50
from smalti.recipes.var import IMAGES
from smalti.tokenizers.rq_vae import f32

TOKENIZER = [
    *"--data.source shapes:64 --train.steps 6 --objective.codebook.warmup 2".split(),
    *"--model.size 16 16 --model.channels 8 --model.latent 8 --model.vocab 16".split(),
    *"--model.multipliers 1 2 --model.depth 3 --model.no-shared".split(),
]

pytestmark = pytest.mark.usefixtures("float32")


def run(*arguments) -> None:
    main([str(a) for a in arguments])


def mistake(capsys, *arguments) -> str:
    """The one line that a command which fails writes."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert stop.value.code == 2 and not output.out
    return line


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rq")
    run("train", "emoji_rq", "--out", folder / "t", *TRAIN, *TOKENIZER)
    return folder / "t" / "tokenizer"


def test_what_was_trained(trained):
    tokenizer, _ = load_module(trained, TOKENIZERS)
    assert tokenizer.spec.shape(1) == (1, 16, 3) and tokenizer.quantize.tables == 3
    run_folder = trained.parent
    log = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in log if "usage" in line]
    assert {"loss", "psnr", "commitment", "perplexity_depth2"} <= steps[-1].keys()
    report = read_json(run_folder / "report.json")
    for d in range(3):
        assert 1 <= report[f"held_out_perplexity_depth{d}"] <= 16
        assert 0 < report[f"held_out_usage_depth{d}"] <= 1


def test_its_codes_are_kept_and_come_back(trained, tmp_path):
    file = tmp_path / "codes.arrow"
    run("encode", "shapes:12", "--tokenizer", trained, "--out", file)
    cache, (tokenizer, _) = TokenCache(file), load_module(trained, TOKENIZERS)
    assert cache.spec == tokenizer.spec and len(cache) == 12
    codes = torch.as_tensor(np.stack([cache.codes([row], [0])[0] for row in range(12)])).long()
    assert codes.shape == (12, 16, 3) and codes.amax() < 16
    pictures = tokenizer.decode(codes)
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(pictures)).shape, pictures.shape)


def test_pictures_come_back_by_depth(trained, tmp_path, capsys):
    def told(*words):
        capsys.readouterr()
        run("reconstruct", trained, "shapes:5", "--out", tmp_path / "r.png", "--json", *words)
        sheet = np.asarray(Image.open(tmp_path / "r.png").convert("RGB"))
        return json.loads(capsys.readouterr().out)["psnr"], sheet

    whole, every = told()
    found = [told("--depth", d) for d in (1, 2, 3)]
    assert found[-1][0] == whole and np.array_equal(found[-1][1], every)
    assert len({psnr for psnr, _ in found}) == 3
    for wrong in (0, 4):
        line = mistake(capsys, "reconstruct", trained, "shapes:5", "--depth", wrong)
        assert line.endswith(f"depth must be from 1 to 3, got {wrong}")


def test_recipes():
    small, published = emoji_rq(), rq_vae()
    assert small.model.spec.bits * small.model.spec.positions == 64 * 9  # those of emoji_vqgan
    assert emoji_rq64().model.spec.grids == ((8, 8),) and emoji_rq64().model.size == (64, 64)
    assert published.model == f32() and published.objective.codebook.decay == 0.99
    assert rq_vae_50().train.steps == 50 * (IMAGES // 128) == 5 * published.train.steps
    assert small.objective.codebook.kmeans and not published.objective.codebook.kmeans
