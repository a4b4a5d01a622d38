"""Released weights by hub id: what is downloaded, where the pipeline is kept, what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import smalti
from builders import build
from official import official, shards, write
from smalti.cli.info import describe
from smalti.cli.main import main
from smalti.interop.hub import find, find_tokenizer
from smalti.interop.projects import PROJECTS
from smalti.models import ibq, infinity, open_magvit2, rar, var
from smalti.models.ibq import IBQ
from smalti.models.infinity import Infinity
from smalti.models.llamagen import LlamaGen, LlamaGenConfig
from smalti.models.open_magvit2 import OpenMAGVIT2
from smalti.models.rar import RAR
from smalti.models.var import VAR
from smalti.text.t5 import T5Config
from smalti.tokenizers import multiscale_vqvae
from smalti.tokenizers.ibq import IBQTokenizer, IBQTokenizerConfig
from smalti.tokenizers.infinity import InfinityVAE, InfinityVAEConfig
from smalti.tokenizers.maskgit_vqgan import MaskGITVQGAN, MaskGITVQGANConfig
from smalti.tokenizers.multiscale_vqvae import MultiScaleVQVAE
from smalti.tokenizers.open_magvit2 import OpenMAGVIT2LFQ, OpenMAGVIT2LFQConfig
from smalti.tokenizers.quantize.multiscale import pyramid
from smalti.tokenizers.vqgan import VQGAN, VQGANConfig

OFFICIAL, TEXT = PROJECTS["llamagen"].repositories
VQ = VQGANConfig(
    size=(64, 64), channels=4, multipliers=(1, 1, 1, 1, 2), blocks=1, latent=4, vocab=16, dim=2
)
VQ8 = VQGANConfig(
    size=(64, 64), channels=4, multipliers=(1, 1, 1, 2), blocks=1, latent=4, vocab=16, dim=2
)
GPT = LlamaGenConfig(grid=(4, 4), vocab=16, classes=3, layers=1, heads=2, dim=16, multiple_of=16)
MASKGIT = MaskGITVQGANConfig(
    size=(8, 8), channels=4, multipliers=(1, 1, 2), blocks=1, vocab=32, dim=2
)
pytestmark = pytest.mark.usefixtures("float32")


class Hub:
    """A stand-in for `hf_hub_download` that has small files and remembers what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.commit = folder, [], "c0ffee"

    def add(self, repo: str, name: str, module: torch.nn.Module) -> None:
        """A file of weights; with the rotary table of old files, which tells grid and heads."""
        state = official(module)
        if isinstance(module, LlamaGen):
            state["freqs_cis"] = module.rope_table()
        path = self.path(repo, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write({"model": state}, path)

    def path(self, repo: str, name: str) -> Path:
        return self.folder / repo / "snapshots" / self.commit / name

    def __call__(self, repo: str, name: str) -> str:
        self.asked.append(f"{repo}/{name}")
        if not self.path(repo, name).is_file():
            raise OSError("404 Client Error\nmore lines")
        return str(self.path(repo, name))

    def several(self, repo: str, allow_patterns: list[str]) -> str:
        """As `snapshot_download`, of all files of a folder."""
        self.asked += [f"{repo}/{pattern}" for pattern in allow_patterns]
        return str(self.path(repo, ""))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with a class-conditional model of 4 x 4 codes under a published name."""
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr("smalti.interop.hub.hf_hub_download", hub)
    monkeypatch.setattr("smalti.interop.hub.snapshot_download", hub.several)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    hub.add(OFFICIAL, "c2i_B_256.pt", build(LlamaGen, GPT))
    hub.add(OFFICIAL, "vq_ds16_c2i.pt", build(VQGAN, VQ))
    hub.add(OFFICIAL, "vq_ds8_c2i.pt", build(VQGAN, VQ8))
    return hub


def test_a_model_is_downloaded_converted_and_kept(hub, tmp_path):
    name = f"{OFFICIAL}/c2i_B_256.pt"
    pipe = smalti.load(name, "cpu", torch.float32)
    assert hub.asked == [name, f"{OFFICIAL}/vq_ds16_c2i.pt"]  # and nothing else of the repository
    assert pipe.model.config.grid == (4, 4) and pipe.tokenizer.config.size == (64, 64)
    assert pipe.info["source"] == f"{OFFICIAL} at c0ffee"
    assert set(pipe.info["files"]) == {"c2i_B_256.pt", "vq_ds16_c2i.pt"}
    kept = tmp_path / "home" / "smalti" / "FoundationVision--LlamaGen" / "c0ffee"
    folder = kept / "c2i_B_256+vq_ds16_c2i"
    before = (folder / "model" / "model.safetensors").stat().st_mtime_ns

    again = smalti.load(name, "cpu", torch.float32)
    assert hub.asked[2:] == [name] and again.fingerprint == pipe.fingerprint
    assert (folder / "model" / "model.safetensors").stat().st_mtime_ns == before
    images = [np.asarray(p(n=2, seed=1)[1]) for p in (pipe, again)]
    assert np.array_equal(*images)
    assert describe(name)["fingerprint"] == pipe.fingerprint


def test_another_commit_is_converted_again(hub):
    first = smalti.load(f"{OFFICIAL}/c2i_B_256.pt", "cpu")
    hub.commit = "decaf"
    hub.add(OFFICIAL, "vq_ds16_c2i.pt", build(VQGAN, VQ))
    hub.add(OFFICIAL, "c2i_B_256.pt", build(LlamaGen, GPT, seed=1))
    second = smalti.load(f"{OFFICIAL}/c2i_B_256.pt", "cpu")
    assert second.info["source"] == f"{OFFICIAL} at decaf"
    assert first.fingerprint != second.fingerprint


def test_another_tokenizer(hub):
    pipe = smalti.load(f"{OFFICIAL}/c2i_B_256.pt+vq_ds8_c2i.pt", "cpu", torch.float32)
    assert pipe.tokenizer.config.size == (32, 32) and pipe.model.config.grid == (4, 4)
    with pytest.raises(ValueError, match="must be one of vq_ds16_c2i.pt, vq_ds8_c2i.pt, got 'vq'"):
        smalti.load(f"{OFFICIAL}/c2i_B_256.pt+vq")


def test_a_mirror_takes_the_tokenizer_from_the_project(hub):
    hub.add("me/mirror", "c2i_L_384.pt", build(LlamaGen, GPT))
    smalti.load("me/mirror/c2i_L_384.pt", "cpu")
    assert hub.asked == ["me/mirror/c2i_L_384.pt", f"{OFFICIAL}/vq_ds16_c2i.pt"]


def test_a_text_model(hub):
    model = replace(GPT, classes=0, text_length=6, text_dim=12)
    hub.add(TEXT, "t2i_XL_stage1_256.pt", build(LlamaGen, model))
    hub.add(TEXT, "vq_ds16_t2i.pt", build(VQGAN, VQ))
    pipe = smalti.load(f"{TEXT}/t2i_XL_stage1_256.pt", "cpu", torch.float32)
    assert hub.asked == [f"{TEXT}/t2i_XL_stage1_256.pt", f"{TEXT}/vq_ds16_t2i.pt"]
    assert pipe.text.config == T5Config("google/flan-t5-xl", 6, 12)
    assert (pipe.sampling.guidance.scale, pipe.sampling.filters.top_k) == (7.5, 1000)
    assert pipe.classes == []


def test_rar_has_its_tokenizer_in_another_repository(hub):
    model = build(RAR, replace(rar.tiny(), grid=(2, 2), dropout=0.1))
    tokenizer = "maskgit-vqgan-imagenet-f16-256.bin"
    hub.add("yucornetto/RAR", "rar_b.bin", model)
    hub.add("fun-research/TiTok", tokenizer, build(MaskGITVQGAN, MASKGIT))
    pipe = smalti.load("yucornetto/RAR/rar_b.bin", "cpu", torch.float32)
    assert hub.asked == ["yucornetto/RAR/rar_b.bin", f"fun-research/TiTok/{tokenizer}"]
    assert pipe.info["source"] == "yucornetto/RAR at c0ffee"
    assert pipe.model.config == model.config and pipe.tokenizer.config == MASKGIT
    hub.add("me/mirror", "rar_xl.bin", model)
    smalti.load("me/mirror/rar_xl.bin", "cpu")
    assert hub.asked[2:] == ["me/mirror/rar_xl.bin", f"fun-research/TiTok/{tokenizer}"]


@pytest.mark.parametrize("name", ["var_d16.pth", "var_d36.pth"])
def test_var(hub, name):
    """The same tokenizer serves every schedule: d36 is of another one."""
    sides = (1, 2, 3) if name == "var_d16.pth" else (1, 2, 4)
    vae = replace(multiscale_vqvae.tiny(), size=(12, 12), scales=pyramid(1, 2, 3))
    config = replace(var.tiny(), vocab=vae.vocab, latent=vae.dim, phis=vae.phis)
    hub.add("FoundationVision/var", "vae_ch160v4096z32.pth", build(MultiScaleVQVAE, vae))
    model = build(VAR, replace(config, scales=pyramid(*sides)))
    hub.add("FoundationVision/var", name, model)
    pipe = smalti.load(f"FoundationVision/var/{name}", "cpu", torch.float32)
    assert hub.asked == [
        f"FoundationVision/var/{name}",
        "FoundationVision/var/vae_ch160v4096z32.pth",
    ]
    assert pipe.tokenizer.config.scales == pipe.model.config.scales == pyramid(*sides)
    assert pipe.sampling.guidance.scale == 2.5 and len(pipe(n=2, seed=1)) == 2


def test_open_magvit2_has_a_repository_for_each_size(hub):
    """Of 256 pixels, as published; width and depth here tell the size, and so the heads."""
    size = {"layers": 2, "intra_layers": 1, "heads": 2, "dim": 32}
    tokenizer = OpenMAGVIT2LFQConfig(channels=2, multipliers=(1, 1, 1, 1, 1), blocks=1, bits=5)
    home = "TencentARC/Open-MAGVIT2-Tokenizer-256-resolution"
    repo = "TencentARC/Open-MAGVIT2-AR-B-256-resolution"
    hub.add(home, "imagenet_256_L.ckpt", build(OpenMAGVIT2LFQ, tokenizer))
    hub.add(repo, "AR_256_B.ckpt", build(OpenMAGVIT2, open_magvit2.tiny()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(open_magvit2.SIZES, "B", size)
        pipe = smalti.load(f"{repo}/AR_256_B.ckpt", "cpu", torch.float32)
    assert hub.asked == [f"{repo}/AR_256_B.ckpt", f"{home}/imagenet_256_L.ckpt"]
    assert pipe.tokenizer.config == tokenizer and pipe.model.config.grid == (16, 16)
    assert pipe.sampling.guidance.scale == 1.9
    assert pipe.model.config.guidance_ratios == pytest.approx((1.0, 1.0 / 0.9))


def test_ibq_has_a_repository_for_each_size_and_one_tokenizer(hub):
    """Files of the same names as Open-MAGVIT2's, told apart by their repositories."""
    tokenizer = IBQTokenizerConfig(
        channels=2, multipliers=(1, 1, 1, 1, 1), blocks=1, latent=3, vocab=32, dim=3
    )
    home, repo = "TencentARC/IBQ-Tokenizer-16384", "TencentARC/IBQ-AR-XL"
    hub.add(home, "imagenet256_16384.ckpt", build(IBQTokenizer, tokenizer))
    hub.add(repo, "AR_256_XL.ckpt", build(IBQ, ibq.tiny()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ibq.SIZES, "XL", {"layers": 2, "heads": 2, "dim": 32})
        pipe = smalti.load(f"{repo}/AR_256_XL.ckpt", "cpu", torch.float32)
    assert hub.asked == [f"{repo}/AR_256_XL.ckpt", f"{home}/imagenet256_16384.ckpt"]
    assert pipe.tokenizer.config == tokenizer and pipe.model.config.grid == (16, 16)
    assert pipe.model.config.heads == 2
    drawn = pipe.sampling.guidance.scale, pipe.sampling.filters.temperature
    assert drawn == (2.35, 1.15)


@pytest.mark.parametrize("dim", [32, 64])
def test_infinity(hub, dim):
    """The smallest model, here of width 32, is for fewer pixels, and takes another tokenizer."""
    repo, vae = "FoundationVision/Infinity", ("infinity_vae_d32reg.pth", "infinity_vae_d16.pth")
    name = "infinity_125M_256x256.pth" if dim == 32 else "infinity_2b_reg.pth"
    shape = InfinityVAEConfig((16, 16), 1, 8, (1,) * 5, blocks=1, scales=((1, 1),), bits=6)
    hub.add(repo, vae[dim == 32], build(InfinityVAE, shape))
    hub.add(repo, name, build(Infinity, replace(infinity.tiny(), dim=dim)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(infinity.SIZES, "125M", {"layers": 2, "dim": 32, "heads": 2})
        pipe = smalti.load(f"{repo}/{name}", "cpu", torch.float32)
    assert hub.asked == [f"{repo}/{name}", f"{repo}/{vae[dim == 32]}"]
    side = 256 if dim == 32 else 1024
    assert pipe.tokenizer.size == (side, side) and pipe.classes == []
    assert pipe.text.config == T5Config("google/flan-t5-xl", 6, 12)
    assert (pipe.sampling.guidance.scale, pipe.sampling.filters.temperature) == (4.0, 0.5)


def test_the_largest_infinity_is_a_folder_of_shards(hub, tmp_path):
    """Of 14 bits in each of 2 x 2 cells, whose tokenizer halves the picture three times."""
    repo, vae = "FoundationVision/Infinity", "infinity_vae_d56_f8_14_patchify.pth"
    shape = InfinityVAEConfig((16, 16), 1, 8, (1,) * 4, blocks=1, scales=((1, 1),), bits=6, cells=2)
    hub.add(repo, vae, build(InfinityVAE, shape))
    model = build(Infinity, replace(infinity.tiny(), cells=2))
    folder = hub.path(repo, "infinity_8b_weights")
    folder.mkdir()
    shards(official(model), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(infinity.SIZES, "8B", {"layers": 2, "dim": 32, "heads": 2})
        pipe = smalti.load(f"{repo}/infinity_8b_weights", "cpu", torch.float32)
    assert hub.asked == [f"{repo}/infinity_8b_weights/*", f"{repo}/{vae}"]
    assert pipe.info["source"] == f"{repo} at c0ffee" and len(pipe.info["files"]) == 4
    assert pipe.model.config.cells == pipe.tokenizer.config.cells == 2
    assert (pipe.sampling.guidance.scale, pipe.sampling.filters.temperature) == (3.0, 1.0)
    kept = tmp_path / "home" / "smalti" / "FoundationVision--Infinity" / "c0ffee"
    assert (kept / f"infinity_8b_weights+{Path(vae).stem}" / "pipeline.json").is_file()


def test_a_tokenizer_alone(hub, tmp_path, capsys):
    """By its id, wherever a tokenizer is asked for; it is no pipeline."""
    repo, name = "TencentARC/IBQ-Tokenizer-8192", "imagenet256_8192.ckpt"
    config = IBQTokenizerConfig(
        channels=2, multipliers=(1, 1, 1, 1, 1), blocks=1, latent=3, vocab=32, dim=3
    )
    module = build(IBQTokenizer, config)
    hub.add(repo, name, module)
    with pytest.raises(ValueError, match=f"{repo} holds no model, .* its tokenizer, {repo}/{name}"):
        smalti.load(f"{repo}/{name}")
    assert hub.asked == []
    found = smalti.load_tokenizer(f"{repo}/{name}", "cpu")
    assert found.config == config
    images = torch.rand(1, 3, 256, 256) * 2 - 1
    assert torch.equal(found.encode(images), module.encode(images, found.spec))
    kept = tmp_path / "home" / "smalti" / "TencentARC--IBQ-Tokenizer-8192" / "c0ffee"
    assert (kept / "imagenet256_8192" / "config.json").is_file()
    assert describe(f"{repo}/{name}")["source"] == f"{repo} at c0ffee"
    out = tmp_path / "x.png"
    main(["reconstruct", f"{repo}/{name}", "shapes:4", "--n", "1", "--out", str(out)])
    assert out.is_file() and hub.asked == [f"{repo}/{name}"] * 3
    assert "1 image, " in capsys.readouterr().err
    other = smalti.load_tokenizer(f"{OFFICIAL}/vq_ds8_c2i.pt", "cpu")
    assert other.factor == 8 and isinstance(other, VQGAN)


def test_sample_draws_from_a_hub_id(hub, tmp_path, capsys):
    out = tmp_path / "x.png"
    main(["sample", f"{OFFICIAL}/c2i_B_256.pt", "--classes", "2", "--out", str(out)])
    assert out.is_file() and "1 image in" in capsys.readouterr().err


@pytest.mark.parametrize("rest", ["", "/", "/c2i_B_512.pt", "/vq_ds16_c2i.pt"])
def test_a_repository_of_several_models_names_them(hub, rest):
    for repo, first in (
        (OFFICIAL, "c2i_B_256.pt"),
        (TEXT, "t2i_XL_stage1_256.pt"),
        ("yucornetto/RAR", "rar_b.bin"),
        ("FoundationVision/var", "var_d16.pth"),
        ("FoundationVision/Infinity", "infinity_2b_reg.pth"),
    ):
        with pytest.raises(ValueError, match=f"several models, .*load one of {repo}/{first}, "):
            smalti.load(repo + rest)
    assert hub.asked == []


def test_every_published_id_is_found():
    count = 0
    for project in PROJECTS.values():
        for repo, (tokenizers, models, home, learned, words, _) in project.repositories.items():
            for model in models:
                count += 1
                found = find(f"{repo}/{model}")
                assert found is not None and found.project is project
                tokenizer = dict(learned).get(model, tokenizers[0])
                assert found[1:] == (repo, model, home or repo, tokenizer, words)
                assert tokenizer in tokenizers
            for tokenizer in () if home else tokenizers:
                count += not models
                found = find_tokenizer(f"{repo}/{tokenizer}")
                assert found == (project, repo, "", repo, tokenizer, "")
    assert count >= 9 + 4 + 5 + 4
    for other in (
        "me/copy/AR_256_B.ckpt",  # of two projects
        "me/fruit",
        "a/b/c",
        "fruit",
        "",
        "/",
        "./x/c2i.pt",
        "me/fruit/c2i_B_256.pth",
        "me/fruit/pytorch_model.bin",
    ):
        assert find(other) is None and find_tokenizer(other) is None


def test_failures_are_one_line_and_leave_nothing(hub, tmp_path):
    with pytest.raises(ValueError, match=r"c2i_L_256.pt .* the hub did not give it: 404 .*Error$"):
        smalti.load(f"{OFFICIAL}/c2i_L_256.pt")
    hub.path(OFFICIAL, "vq_ds16_c2i.pt").write_text("no pickle")
    with pytest.raises(ValueError, match="vq_ds16_c2i.pt is text, not a checkpoint: 'no pickle'$"):
        smalti.load(f"{OFFICIAL}/c2i_B_256.pt")
    assert not list((tmp_path / "home").rglob("*.json"))


def test_a_model_by_name(hub, tmp_path):
    named = smalti.load("llamagen-b-256", "cpu", torch.float32)
    assert hub.asked == [f"{OFFICIAL}/c2i_B_256.pt", f"{OFFICIAL}/vq_ds16_c2i.pt"]
    assert named.fingerprint == smalti.load(f"{OFFICIAL}/c2i_B_256.pt", "cpu").fingerprint
    assert named.info["card"]["results"] == [
        {"metric": "fid", "value": 5.46, "dataset": "ImageNet", "said": "README of llamagen"}
    ]
    main(["sample", "llamagen-b-256", "--n", "1", "--out", str(tmp_path / "a.png")])
    assert (tmp_path / "a.png").is_file()
    assert smalti.load_tokenizer("llamagen-vq16", "cpu").spec.vocab == VQ.vocab


def test_a_name_without_the_hub_says_what_it_would_fetch(hub, monkeypatch):
    def offline(repo, name):
        raise OSError("cannot find it") from ConnectionError("no network")

    monkeypatch.setattr("smalti.interop.hub.hf_hub_download", offline)
    with pytest.raises(
        ValueError,
        match=r"^rar-b-256 is yucornetto/RAR/rar_b.bin with fun-research/TiTok/maskgit-vqgan\S+, "
        r"which was to be fetched: the hub could not be asked \(ConnectionError: no network\)$",
    ):
        smalti.load("rar-b-256")


def test_a_revision(hub, monkeypatch):
    asked = []

    def pinned(repo, name, revision):
        asked.append((name, revision))
        return hub(repo, name)

    monkeypatch.setattr("smalti.interop.hub.hf_hub_download", pinned)
    pipe = smalti.Pipeline.from_pretrained("llamagen-b-256", revision="v1", device="cpu")
    assert asked == [("c2i_B_256.pt", "v1"), ("vq_ds16_c2i.pt", "v1")]
    pipe.save_pretrained(hub.folder / "kept")
    with pytest.raises(ValueError, match="a revision is one of the hub: .*kept is a folder, got"):
        smalti.load(hub.folder / "kept", revision="v1")
