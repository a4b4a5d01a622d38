"""`smalti eval` and `smalti tune` by the real commands, on small systems and sets made here."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from builders import pipeline
from small_systems import mistake, write_pictures
from smalti.cli.main import main
from smalti.cli.search import Scorer
from smalti.cli.subjects import held_out, share_of
from smalti.cli.tune import Search
from smalti.data.open import open_source
from smalti.data.source import split
from smalti.data.token_cache import TokenCache
from smalti.data.transforms import to_float, to_uint8
from smalti.eval.sets import open_set
from smalti.eval.wavelet import fwd
from smalti.loading import load, load_tokenizer
from smalti.pipeline.sampling import Sampling

pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Two sets of pictures, and small pipelines with random weights that name their source."""
    folder = tmp_path_factory.mktemp("eval")
    rng = np.random.default_rng(0)
    for name, count in (("a", 40), ("b", 60)):
        pixels = rng.integers(0, 255, (count, 16, 16, 3)).astype(np.uint8)
        np.savez(folder / f"{name}.npz", arr_0=pixels)
        (folder / name / "cats").mkdir(parents=True)
        for i, picture in enumerate(pixels):
            Image.fromarray(picture).save(folder / name / "cats" / f"{i:03d}.png")
    for name in ("llamagen", "var", "mar"):
        pipe = pipeline(name)
        pipe.info["source"] = f"folder:{folder / 'b'}"
        pipe.save_pretrained(folder / name)
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SMALTI_CACHE", str(tmp_path / "cache"))


def run(*arguments):
    main([str(a) for a in arguments])


def report(capsys, *arguments):
    capsys.readouterr()
    run("eval", *arguments)
    return json.loads(capsys.readouterr().out)


def values(told):
    return {m["metric"]: m["value"] for m in told["metrics"]}


def test_a_folder_and_an_npz_of_the_same_pictures_are_the_same(work, capsys):
    folder, npz = (
        report(capsys, work / f"a{end}", "--reference", work / f"b{end}", "--bootstrap", 0)
        for end in ("", ".npz")
    )
    assert folder["metrics"] == npz["metrics"]
    sets = [np.load(work / f"{n}.npz")["arr_0"].transpose(0, 3, 1, 2) for n in "ab"]
    (value,) = values(folder).values()
    assert value == pytest.approx(fwd(*[[torch.from_numpy(s)] for s in sets]), rel=1e-9)
    assert folder["reference"]["images"] == 60 and folder["subject"]["images"] == 40
    assert folder["subject"]["hash"] == npz["subject"]["hash"] != folder["reference"]["hash"]
    assert set(folder["versions"]) == {"smalti", "torch", "numpy"}


def test_a_part_of_a_folder_without_a_scheme(work, capsys):
    given = [f"{work / 'b'}@train", "--reference", f"{work / 'b'}@held", "--bootstrap", 0]
    told = report(capsys, *given)
    assert (told["subject"]["images"], told["reference"]["images"]) == (54, 6)


@pytest.mark.parametrize("name", ["llamagen", "var", "mar"])
def test_a_pipeline_is_drawn_from_and_its_likelihood_measured(work, capsys, name):
    given = ["--reference", work / "b", "--n", 15, "--bootstrap", 0, "--balanced"]
    quick = ["--head-steps", "2,0", "--steps", "2"] if name == "mar" else []
    told = report(capsys, work / name, *given, *quick)
    assert told == report(capsys, work / name, *given, *quick)
    assert told["subject"]["kind"] == "pipeline" and told["subject"]["images"] == 15
    assert told["subject"]["sampling"]["steps"] == (2 if name == "mar" else None)
    assert told["metrics"][0]["metric"] == "fwd_15"
    other = report(capsys, work / name, *given, *quick, "--seed", 1)
    assert values(other)["fwd_15"] != values(told)["fwd_15"]


def test_a_tokenizer_is_measured_by_what_it_gives_back(work, capsys):
    told = report(capsys, work / "var" / "tokenizer", "--reference", work / "a", "--bootstrap", 20)
    found = values(told)
    kinds = {m["metric"]: m["kind"] for m in told["metrics"]}
    assert kinds["rfwd_40"] == "reconstruction" and kinds["usage_40"] == "codes"
    assert {"psnr_40", "ssim_40", "l1_40", "perplexity_40", "entropy_40"} <= found.keys()
    assert any(name.startswith("usage_2x2") for name in found)
    assert found["perplexity_40"] == pytest.approx(np.exp(found["entropy_40"]))
    psnr = next(m for m in told["metrics"] if m["metric"] == "psnr_40")
    assert psnr["interval"][0] < psnr["value"] < psnr["interval"][1]
    for metric in told["metrics"]:
        low, high = metric["interval"]
        assert low <= metric["value"] <= high, metric["metric"]


class Apart:
    """A stand-in for LPIPS: the mean difference, and what it is of."""

    def __init__(self, net: str) -> None:
        self.hash, self.seen = f"of-{net}", list[tuple[torch.Tensor, torch.Tensor]]()

    def to(self, device):
        return self

    def __call__(self, images, back):
        self.seen.append((images, back))
        return (images - back).mean((1, 2, 3)) + (self.hash == "of-vgg")


@torch.no_grad()
def test_a_tokenizer_is_measured_by_lpips(work, capsys, monkeypatch):
    nets, folders = dict[str, Apart](), set[object]()

    def load_lpips(net, folder):
        folders.add(folder)
        return nets.setdefault(net, Apart(net))

    monkeypatch.setattr("smalti.features.lpips.load_lpips", load_lpips)
    given = ["--lpips", "alex", "vgg", "--lpips-weights", work / "weights", "--bootstrap", 0]
    tokenizer = work / "var" / "tokenizer"
    told = report(capsys, tokenizer, "--reference", work / "a.npz", *given)
    found = {m["metric"]: m for m in told["metrics"]}
    assert folders == {work / "weights"} and set(nets) == {"alex", "vgg"}
    pixels = torch.from_numpy(np.load(work / "a.npz")["arr_0"]).permute(0, 3, 1, 2)
    module = load_tokenizer(tokenizer, "cpu")
    for name, net in nets.items():
        for originals, back in net.seen:
            wanted = to_float(to_uint8(module.decode(module.encode(originals))))
            torch.testing.assert_close(back, wanted, rtol=0, atol=1.01 / 127.5)
        originals, others = (torch.cat(parts) for parts in zip(*net.seen, strict=True))
        assert torch.equal(originals, to_float(pixels))
        value = (originals - others).double().mean().item() + (name == "vgg")
        metric = found[f"lpips_{name}_40"]
        assert metric["value"] == pytest.approx(value, abs=1e-6) and abs(value) > 1e-4
        assert (metric["better"], metric["extractor"]) == ("lower", net.hash)


@pytest.mark.parametrize("part", ["pipeline", "tokenizer"])
def test_the_folder_of_a_run_is_told_from_what_it_holds(work, tmp_path, capsys, part):
    source = work / "var" / ("tokenizer" if part == "tokenizer" else "")
    (tmp_path / "run" / "previews").mkdir(parents=True)
    shutil.copytree(source, tmp_path / "run" / part)
    for command in ("eval", "sample", "tune"):
        line = mistake(capsys, command, tmp_path / "run")
        assert line.endswith(f"it is a training run, with its {part} in {tmp_path / 'run' / part}")


def test_a_report_on_standard_output_has_its_numbers_for_people_too(work, capsys):
    told = report(capsys, work / "a", "--reference", work / "b", "--bootstrap", 0)
    run("eval", work / "a", "--reference", work / "b", "--bootstrap", 0)
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.split() == ["fwd_40", f"{told['metrics'][0]['value']:.6g}"]


def damaged(report, **change):
    told = json.loads(report.read_text())
    told["metrics"][0] |= change
    return json.dumps(told)


def test_reports_are_compared_or_refused(work, tmp_path, capsys):
    for name, subject, reference in (
        ("one", "a.npz", "b.npz"),
        ("same", "a", "b"),
        ("other", "a", "a"),
        ("back", "var/tokenizer", "b"),
    ):
        files = ["--reference", work / reference, "--out", tmp_path / f"{name}.json"]
        run("eval", work / subject, *files)
    capsys.readouterr()
    run("info", tmp_path / "one.json")
    kind, subject, reference, head, line = capsys.readouterr().out.splitlines()
    assert (kind, head) == ("kind: report of a measurement", "numbers:")
    assert subject == f"subject: {work / 'a.npz'}" and reference == f"reference: {work / 'b.npz'}"
    metric = json.loads((tmp_path / "one.json").read_text())["metrics"][0]
    low, high = metric["interval"]
    assert line.split() == ["fwd_40", f"{metric['value']:.6g}", f"[{low:.5g},", f"{high:.5g}]"]
    run("eval", "compare", tmp_path / "one.json", tmp_path / "same.json", "--json")
    told = json.loads(capsys.readouterr().out)
    (row,) = told["differences"]
    assert not told["refused"]
    assert row["difference"] == 0 and not row["clear"] and row["better"] == "neither"
    line = mistake(capsys, "eval", "compare", tmp_path / "one.json", tmp_path / "other.json")
    assert "these do not compare: fwd: other references" in line
    line = mistake(capsys, "eval", "compare", tmp_path / "one.json", tmp_path / "back.json")
    assert "fwd is of generation, rfwd of reconstruction" in line
    for text, words in (
        ('{"format": 2}', "x.json is not a report of smalti eval"),
        ('{"format": 1, "metrics": []}', "x.json is not a report of smalti eval"),
        ('{"format": 1, "metrics": ["x"]}', "x.json: metrics[0] must be an object, got 'x'"),
        ('{"format": 1, "metrics": [{"metric": "fwd"}]}', "x.json: metrics[0]: "),
        (damaged(tmp_path / "one.json", value=None), "x.json: metrics[0].value must be"),
        (damaged(tmp_path / "one.json", interval=[1]), "metrics[0].interval must have 2 entries"),
        (damaged(tmp_path / "one.json", interval=["a", 2]), "metrics[0].interval must be"),
        (damaged(tmp_path / "one.json", images="q"), "x.json: metrics[0].images must be"),
    ):
        (tmp_path / "x.json").write_text(text)
        line = mistake(capsys, "eval", "compare", tmp_path / "x.json", tmp_path / "one.json")
        assert words in line
    (tmp_path / "x.json").write_text('{"metrics": ["x"], "subject": {}, "reference": {}}')
    assert "x.json is a damaged report: TypeError" in mistake(capsys, "info", tmp_path / "x.json")


def test_bad_input(work, tmp_path, capsys):
    reference = ["--reference", work / "b"]
    np.savez(tmp_path / "large.npz", arr_0=np.zeros((5, 32, 32, 3), np.uint8))
    np.savez(tmp_path / "first.npz", arr_0=np.zeros((5, 3, 16, 16), np.uint8))
    np.savez(tmp_path / "none.npz", images=np.zeros((5, 16, 16, 3), np.uint8))
    np.savez(tmp_path / "one.npz", arr_0=np.zeros((1, 16, 16, 3), np.uint8))
    for subject, words in (
        ("large.npz", "32 x 32 pixels"),
        ("first.npz", "channels come last"),
        ("none.npz", "has no arr_0"),
        ("one.npz", "at least 2 pictures, got 1"),
    ):
        assert words in mistake(capsys, "eval", tmp_path / subject, *reference)
    assert "a reference is needed" in mistake(capsys, "eval", work / "a")
    line = mistake(capsys, "eval", work / "a", *reference, "--guidance", 2)
    assert "guidance: settings of drawing are for a pipeline" in line
    line = mistake(capsys, "eval", work / "a", *reference, "--metrics", "fdw")
    assert "metric must be one of fwd, fid" in line
    (tmp_path / "other.pth").write_bytes(b"nothing")
    given = ["--metrics", "fid", "--inception", tmp_path / "other.pth"]
    assert "other.pth" in mistake(capsys, "eval", work / "a", *reference, *given)


def test_a_broken_picture_is_named_or_counted(work, tmp_path, capsys):
    folder = tmp_path / "broken"
    folder.mkdir()
    for i in range(12):
        Image.effect_noise((16, 16), 90).convert("RGB").save(folder / f"{i}.png")
    whole = (folder / "7.png").read_bytes()
    (folder / "7.png").write_bytes(whole[: len(whole) // 2])
    assert "7.png" in mistake(capsys, "eval", folder, "--reference", work / "b")
    told = report(capsys, folder, "--reference", work / "b", "--skip-bad")
    assert told["subject"]["images"] == 11 and list(told["subject"]["skipped"]) == ["7.png"]
    for subject in (work / "llamagen", work / "llamagen" / "tokenizer"):  # as many as are good
        told = report(capsys, subject, "--reference", folder, "--skip-bad")
        images = [m["images"] for m in told["metrics"] if m["kind"] != "likelihood"]
        assert set(images) == {11} == {told["reference"]["images"]}


def test_a_search_finds_writes_and_goes_on(work, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("smalti.eval.halving.LEAST", 4)
    pipe = shutil.copytree(work / "llamagen", tmp_path / "pipe")
    given = ["--reference", work / "b", "--budget", 72, "--candidates", 4, "--guidance", 1, 3]
    given += ["--temperature", 0.5, 1, "--top-p", 1, "--out", tmp_path / "tuned", "--write"]
    capsys.readouterr()
    run("tune", pipe, *given, "--json")
    told = json.loads(capsys.readouterr().out)
    rows = told["rows"]
    assert [r["round"] for r in rows] == [0] * 4 + [1] and rows[0]["images"] == 9
    best = min(rows[:4], key=lambda r: r["value"])
    assert rows[4]["settings"] == best["settings"] == told["best"]["settings"]
    assert rows[4]["images"] == 36 and told["metric_name"] == "fwd_36"
    stored = json.loads((pipe / "pipeline.json").read_text())["sampling"]
    assert {k: stored[k] for k in best["settings"]} == best["settings"]
    front = [(r["fidelity"], r["diversity"]) for r in told["frontier"]]
    assert front and front == sorted(front, key=lambda p: (-p[0], p[1]))
    with Image.open(tmp_path / "tuned" / "tune.png") as image:
        assert image.width > 300
    run("info", tmp_path / "tuned" / "tune.json", "--json")
    facts = json.loads(capsys.readouterr().out)
    assert (facts["kind"], facts["metric"]) == ("report of a search", "fwd_36")
    assert facts["settings"] == best["settings"] and facts["numbers"]["tried"] == 5
    assert facts["numbers"]["value"] == told["best"]["value"]

    def never(*_):
        raise AssertionError("what was measured is measured again")

    shutil.copy(work / "llamagen" / "pipeline.json", pipe / "pipeline.json")
    monkeypatch.setattr("smalti.cli.search.Scorer.__call__", never)
    run("tune", pipe, *given, "--json")
    assert json.loads(capsys.readouterr().out) == told
    line = mistake(capsys, "tune", pipe, *given, "--seed", 5)
    assert "is of a search with seed 0, now 5" in line


def test_a_search_draws_of_all_classes_from_the_first_round_on(tmp_path):
    """The pictures of a folder lie class after class."""
    pipe = pipeline("llamagen", classes=list("abcde"))
    reference = open_set(write_pictures(tmp_path, 40, tuple("abcde")), 16)
    first, again, other = (
        Scorer(pipe, reference, Search(seed=seed)).request["classes"] for seed in (0, 0, 1)
    )
    assert reference.labels.tolist() == sorted(first) == sorted(other)
    assert len(set(first[:12])) == 5 and first == again != other


def test_a_search_of_a_pipeline_with_a_top_k_of_each_depth(work, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("smalti.eval.halving.LEAST", 4)
    pipe = pipeline("llamagen-depth", sampling=Sampling.of(top_k=(3, 2, 1)))
    pipe.save_pretrained(tmp_path / "p")
    given = ["--reference", work / "b", "--budget", 24, "--candidates", 2, "--guidance", 1]
    given += ["--temperature", 1, "--top-p", 1, "--out", tmp_path / "t"]
    run("tune", tmp_path / "p", *given)
    assert "top_k 3,2,1" in capsys.readouterr().err
    monkeypatch.setattr("smalti.cli.search.Scorer.__call__", None)  # all is known
    run("tune", tmp_path / "p", *given, "--write")
    stored = load(tmp_path / "p").sampling.filters.top_k
    assert stored in ((3, 2, 1), 0)


def test_searches_that_cannot_be(work, tmp_path, capsys):
    given = ["--reference", work / "b", "--out", tmp_path / "t"]
    line = mistake(capsys, "tune", work / "llamagen", *given, "--budget", 100)
    assert "need a budget of at least" in line and "got 100" in line
    line = mistake(capsys, "tune", work / "llamagen", *given, "--metric", "recall")
    assert "metric must be one of fwd" in line
    line = mistake(capsys, "tune", work / "llamagen", *given, "--temperature", -1)
    assert "temperature" in line
    assert not (tmp_path / "t").exists()


def test_options_that_a_subject_has_no_use_for(work, tmp_path, capsys, monkeypatch):
    reference = ["--reference", work / "b"]
    for subject, options, words in (
        ("a", ["--n", 5], "--n is for a pipeline"),
        ("a", ["--conditioning"], "--conditioning is for a pipeline"),
        ("llamagen", ["--lpips", "alex"], "--lpips is for a tokenizer"),
        ("var/tokenizer", ["--size", 8], "--size is for pipelines and sets of pictures"),
        ("a", ["--n", 0], "--n is for a pipeline"),
        ("a", ["--level", 0, "--metrics", "fid"], "--level is for fwd, which is not asked"),
        ("a", ["--size", 0], "size must be at least 1, got 0"),
        ("llamagen", ["--n", 1], "fwd: needs at least 2 pictures, got --n 1"),
        ("llamagen", ["--level", 9], "level must be in 0 ... 4"),
    ):
        assert words in mistake(capsys, "eval", work / subject, *reference, *options)
    pipeline("fluid-discrete").save_pretrained(tmp_path / "oblong")
    for command in ("eval", "tune"):
        line = mistake(capsys, command, tmp_path / "oblong", *reference)
        assert "pictures are cut to squares here, this tokenizer takes" in line
    line = mistake(capsys, "eval", work / "llamagen")
    assert "does not say which pictures it never saw: give --reference" in line
    given = [*reference, "--keep", tmp_path / "x.npz", "--out", tmp_path / "x.json"]
    assert "says how" in mistake(capsys, "eval", work / "llamagen", *given)
    monkeypatch.chdir(tmp_path)
    given = [*reference, "--keep", "x.npz", "--out", tmp_path / "x.json"]
    assert "says how" in mistake(capsys, "eval", work / "llamagen", *given)
    line = mistake(capsys, "eval", work / "llamagen", *reference, "--keep", tmp_path / "x.png")
    assert "--keep must name a file that ends in .npz, got" in line
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "eval is one process" in mistake(capsys, "eval", work / "a", *reference)


def test_what_is_measured_is_never_written_over(work, tmp_path, capsys):
    for name in "ab":
        shutil.copy(work / f"{name}.npz", tmp_path)
    (tmp_path / "a.json").write_text('{"drawn": "a.npz"}')
    before = (tmp_path / "a.npz").read_bytes(), (tmp_path / "b.npz").read_bytes()
    given = [tmp_path / "a.npz", "--reference", tmp_path / "b.npz", "--out"]
    for out, words in (
        ("a.npz", "a.npz must end in .json"),
        ("b.npz", "b.npz must end in .json"),
        ("a.json", "a.json exists and is not of smalti: give another name"),
    ):
        assert words in mistake(capsys, "eval", *given, tmp_path / out)
    assert before == ((tmp_path / "a.npz").read_bytes(), (tmp_path / "b.npz").read_bytes())
    for _ in range(2):  # a report may be written anew
        run("eval", *given, tmp_path / "new" / "folder" / "c.json", "--bootstrap", 0)
    assert json.loads((tmp_path / "new" / "folder" / "c.json").read_text())["metrics"]


class Eight:
    """A stand-in for the network, of 8 features."""

    hash = "0"

    def to(self, device):
        return self

    def __call__(self, images):
        rows = torch.zeros(len(images), 8)
        return SimpleNamespace(pool=rows, spatial=rows, logits=rows)


def test_mistakes_are_found_before_pictures_are_drawn(work, tmp_path, capsys, monkeypatch):
    def never(*_, **__):
        raise AssertionError("pictures are drawn")

    monkeypatch.setattr("smalti.pipeline.npz.draw_npz", never)
    monkeypatch.setattr("smalti.features.inception.load_inception", lambda path: Eight())
    np.savez(tmp_path / "s.npz", mu=np.zeros(5), sigma=np.eye(5))
    np.savez(tmp_path / "8.npz", mu=np.zeros(8), sigma=np.eye(8))
    np.savez(tmp_path / "three.npz", arr_0=np.zeros((3, 16, 16, 3), np.uint8))
    other = pipeline("llamagen")
    other.info["source"] = "folder:/nothere"
    other.save_pretrained(tmp_path / "other")
    other.info["source"] = "shapes:40"
    other.save_pretrained(tmp_path / "shapes")
    b = work / "b.npz"
    for subject, options, words in (
        (work / "llamagen", [tmp_path / "8.npz", "--metrics", "fid"], "no pictures: give --n"),
        (
            work / "llamagen",
            [tmp_path / "s.npz", "--metrics", "fid", "--n", 9],
            "s.npz holds statistics of 5 features, the network has 8",
        ),
        (
            work / "llamagen",
            [tmp_path / "three.npz", "--metrics", "precision", "--n", 9],
            "precision needs at least 4 pictures, ",
        ),
        (work / "llamagen", [b, "--metrics", "kid", "--n", 3], "needs at least 4 pictures, got"),
        (tmp_path / "other", [b, "--conditioning"], "nothere"),
        (tmp_path / "shapes", [b, "--conditioning"], "shapes:40 has other classes (red circle"),
    ):
        assert words in mistake(capsys, "eval", subject, "--reference", *options)


@pytest.mark.parametrize(
    ("classes", "more", "words"),
    [
        ("abcde", [], "those of the reference, in turn"),
        ("abcde", ["--balanced"], "all in turn"),
        ("abcd", [], "all in turn"),
    ],
)
def test_the_report_says_what_pictures_were_drawn_for(tmp_path, capsys, classes, more, words):
    pipeline("llamagen", classes=list("abcde")).save_pretrained(tmp_path / "p")
    given = ["--reference", write_pictures(tmp_path / "r", 5, tuple(classes)), "--bootstrap", 0]
    assert report(capsys, tmp_path / "p", *given, *more)["subject"]["conditions"] == words


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3])
def test_what_training_never_saw_is_what_was_held_out(work, tmp_path, capsys, share):
    """The share that a cache knows finds the same pictures again."""
    tokenizer = ["--tokenizer", work / "llamagen" / "tokenizer", "--holdout", share]
    run("encode", "shapes:60", *tokenizer, "--out", tmp_path / "c.arrow")
    cache = TokenCache(tmp_path / "c.arrow")
    train, held = split(open_source("shapes:60"), cache.holdout)
    assert cache.held_out.tolist() == held and cache.train.tolist() == train
    pipe = pipeline("llamagen")
    pipe.info |= {"source": "shapes:60", "holdout": cache.holdout}
    pipe.save_pretrained(tmp_path / "p")
    if share:
        loaded = load(tmp_path / "p")
        assert held_out(loaded) == "shapes:60@held" and share_of(loaded) == cache.holdout
        given = ["--reference", "shapes:60@held", "--n", 5, "--bootstrap", 0]
        assert report(capsys, tmp_path / "p", *given)["reference"]["images"] == len(held)


def test_a_text_pipeline_draws_the_captions_of_the_reference(work, tmp_path, capsys):
    pipe = pipeline("llamagen-text")
    pipe.info |= {"source": "shapes:40", "holdout": 0.1}
    pipe.save_pretrained(tmp_path / "p")
    told = report(capsys, tmp_path / "p", "--conditioning", "--level", 1)
    found = values(told)
    assert told["subject"]["images"] == 4 and 0 <= found["matching_all_4"] <= 1
    told = report(capsys, tmp_path / "p", "--conditioning", "--level", 1, "--n", 30)
    for metric in told["metrics"]:
        low, high = metric["interval"]
        assert low <= metric["value"] <= high, metric["metric"]
    assert found["bits_per_image"] > 0
    line = mistake(capsys, "eval", tmp_path / "p", "--reference", work / "b.npz")
    assert "has no captions, which the pipeline draws from" in line


def test_what_the_starter_learned_is_asked_for_where_it_is_not(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = mistake(capsys, "eval", "smalti/emoji64")
    assert line.endswith(
        "the pipeline learned styles:emoji3-64.parquet, which is not here: give --reference"
    )
