"""Drawing by class, seed and number; streams; files; the hub."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import close
import smalti
from builders import build, random_codes, tokenizers
from builders import pipeline as small
from smalti.cli.info import png_metadata
from smalti.data.transforms import Transform, to_uint8
from smalti.devices import named
from smalti.engine.step import Known
from smalti.models import llamagen
from smalti.modules import fingerprint, save_module
from smalti.pictures import grid, save_png, to_pil
from smalti.pipeline import coded
from smalti.pipeline.pipeline import Pipeline
from smalti.pipeline.sampling import Sampling
from smalti.tokenizers import vqgan

NAMES = ["Apple", "pear", "Fig", "plum", "7up"]


def pipeline(**sampling) -> Pipeline:
    return Pipeline(
        build(vqgan.VQGAN, vqgan.tiny()),
        build(llamagen.LlamaGen, llamagen.tiny()),
        NAMES,
        Sampling.of(**sampling),
        {"source": "shapes", "credit": "nobody"},
    )


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return pipeline(guidance=2.0)


def pixels(images) -> np.ndarray:
    return np.stack([np.asarray(i) for i in images])


def test_a_saved_pipeline_draws_the_same(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "p")
    loaded = smalti.load(tmp_path / "p", device="cpu", dtype=torch.float32)
    assert loaded.classes == NAMES and loaded.sampling == pipe.sampling
    assert loaded.fingerprint == pipe.fingerprint
    assert loaded.info["source"] == "shapes" and loaded.info["credit"] == "nobody"
    images = loaded(n=6, seed=3)
    assert np.array_equal(pixels(images), pixels(pipe(n=6, seed=3)))
    assert [i.info["smalti"] for i in images] == [i.info["smalti"] for i in pipe(n=6, seed=3)]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["p"]


def test_fingerprint_changes_with_a_weight(pipe):
    other = pipeline()
    assert other.fingerprint == pipe.fingerprint
    other = pipeline()
    with torch.no_grad():
        other.model.norm.weight[0] += 1e-3
    first, second = pipe.fingerprint.split("-")
    assert other.fingerprint.startswith(first) and not other.fingerprint.endswith(second)


def test_an_image_depends_on_seed_and_number_alone(pipe):
    wanted = pixels(pipe(n=7, seed=5))
    assert len(np.unique(wanted.reshape(7, -1), axis=0)) == 7
    for batch in (1, 3, 64):
        close.pixels(pixels(pipe(n=7, seed=5, batch=batch)), wanted, pipe.tokenizer)
    parts = [pipe(n=2, seed=5), pipe(n=5, seed=5, first=2)]
    close.pixels(pixels(parts[0] + parts[1]), wanted, pipe.tokenizer)
    assert not np.array_equal(pixels(pipe(n=7, seed=6)), wanted)


def test_classes_by_name_number_and_turn(pipe):
    wanted = pixels(pipe([0, 2, 0, 2]))
    assert np.array_equal(pixels(pipe(["apple", "FIG"], n=4)), wanted)
    assert np.array_equal(pixels(pipe(["0", "2"], n=4)), wanted)
    assert [i.info["smalti"]["class"] for i in pipe(["PEAR"], n=2)] == [1, 1]
    assert [i.info["smalti"]["class_name"] for i in pipe()] == NAMES
    assert pipe.class_id("7UP") == 4
    unnamed = Pipeline(pipe.tokenizer, pipe.model)
    assert unnamed.classes == ["0", "1", "2", "3", "4"]


def test_an_exact_name_comes_first(pipe):
    numbered = Pipeline(pipe.tokenizer, pipe.model, ["0", "1", "2", "10", "11"])
    (ten,) = numbered("10")
    assert (ten.info["smalti"]["class"], ten.info["smalti"]["class_name"]) == (3, "10")
    cased = Pipeline(pipe.tokenizer, pipe.model, ["A", "a", "B", "C", "c"])
    assert [i.info["smalti"]["class"] for i in cased(["a", "A", "b"])] == [1, 0, 2]


ONE = ("Fig", 2, np.int64(2), torch.tensor(2), np.array("Fig"), "2")
SEVERAL = (["Fig", 0], np.array([2, 0]), torch.tensor([2, 0]), (np.int8(2), "apple"))


@pytest.mark.parametrize(
    ("given", "wanted"), [*((one, [2]) for one in ONE), *((some, [2, 0]) for some in SEVERAL)]
)
def test_one_class_or_several_of_any_library(pipe, given, wanted):
    assert [a["class"] for a in pipe.asked(given)] == wanted
    assert pipe.asked(classes=given) == pipe.asked(given)


def test_numbers_of_other_libraries_draw_the_same(pipe):
    wanted = pipe(classes=[1], n=2, seed=3, first=1, batch=1, guidance=3, top_k=7)
    images = pipe(
        np.array([1]),
        torch.tensor(2),
        seed=np.int64(3),
        first=np.array(1),
        batch=np.uint8(1),
        guidance=torch.tensor(3.0),
        top_k=np.int32(7),
    )
    assert np.array_equal(pixels(images), pixels(wanted))
    assert [i.info["smalti"] for i in images] == [i.info["smalti"] for i in wanted]
    json.dumps(images[0].info["smalti"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"prompt": "cats"}, "prompt is text here: a prompt or several"),
        ({"guidance_scale": 3}, r"guidance_scale is guidance here: u \+ s \* \(c - u\), 1 is off"),
        ({"cfg": 3}, "cfg is guidance here"),
        ({"generator": torch.Generator()}, "generator is seed here: a whole number"),
        ({"num_images_per_prompt": 4}, "num_images_per_prompt is n here: .* in all"),
        ({"height": 64}, "height is size here: height and width of the pictures in pixels"),
        ({"image": "x.png"}, "image is an argument of other calls, not of this one"),
        ({"clases": [1]}, "sampling has .*, got clases; did you mean 'classes'"),
        ({"guidance": 2.0, "temprature": 1}, "got temprature; did you mean 'temperature'"),
    ],
)
def test_other_libraries_words_are_answered_with_ours(pipe, words, message):
    with pytest.raises(ValueError, match=message):
        pipe(**words)
    with pytest.raises(ValueError, match=message):
        next(pipe.stream(n=1, **words))


def test_codes_are_what_a_call_decodes(pipe):
    asked = pipe.asked(["Fig", "pear"])
    codes = pipe.codes(asked, seed=4, first=3, temperature=0.9)
    assert codes.shape == (2, 16) and codes.dtype == torch.int64
    wanted = [*pipe("Fig", 1, seed=4, first=3, temperature=0.9)]
    wanted += pipe("pear", 1, seed=4, first=4, temperature=0.9)
    assert np.abs(pixels(to_pil(pipe.decode(codes))).astype(int) - pixels(wanted)).max() <= 1
    same = pipe.codes(["Fig", "pear"], seed=np.int64(4), first=3, temperature=0.9)
    assert torch.equal(same, codes)
    known = Known(codes, torch.ones(2, 16, dtype=torch.bool))
    assert torch.equal(pipe.codes(asked, seed=5, known=known), codes)
    assert torch.equal(pipe.decode(codes.numpy().astype(np.int32)), pipe.decode(codes))


@pytest.mark.parametrize("bad", ["cherry", 5, "5", "-1", -1, "²", ""])
def test_an_unknown_class_names_the_classes(pipe, bad):
    with pytest.raises(ValueError, match="[0-4]|Apple"):
        pipe([bad])


def test_the_nearest_of_a_thousand_classes_is_named(pipe):
    many = Pipeline(pipe.tokenizer, pipe.model, [f"kind {chr(97 + i % 26)}{i}" for i in range(999)])
    many.classes.append("Siamese cat")
    with pytest.raises(ValueError, match="got 'siamese cats'; did you mean 'Siamese cat'") as error:
        many.class_id("siamese cats")
    assert "0 ... 999" in str(error.value) and len(str(error.value)) < 300


def test_bad_arguments_name_what_is_allowed(pipe):
    with pytest.raises(ValueError, match="class must be one of 0 ... 4 or Apple, .*'cherry'"):
        pipe(["cherry"])
    with pytest.raises(
        ValueError,
        match="sampling has guidance, .*top_p, smooth, final_temperature, order, .*"
        "reveal, .*got topk",
    ):
        pipe(topk=3)
    with pytest.raises(ValueError, match="-1"):
        pipe(guidance=-1.0)
    with pytest.raises(ValueError, match="constant, linear.*'square'"):
        pipe(schedule="square")
    for bad, words in (
        ({"n": 0}, "^n must be at least 1, got 0"),
        ({"batch": 0}, "^batch must be at least 1, got 0"),
        ({"first": -1}, "^first must be at least 0, got -1"),
        ({"classes": []}, "classes or prompts must be at least 1, got 0"),
        ({"n": True}, "^n must be a whole number, got True"),
        ({"seed": 1.5}, "^seed must be a whole number, got 1.5"),
        ({"seed": None}, "^seed must be a whole number, got None"),
        ({"guidance": float("nan")}, "^guidance must be a finite number, got nan"),
        ({"temperature": "1"}, "^temperature must be a number, got '1'"),
        ({"top_k": 2.5}, "^top_k must be a whole number, got 2.5"),
        ({"conditions": 1, "classes": 2}, "given twice"),
        ({"classes": 1.5}, "a class must be a name or a number, got 1.5"),
        ({"classes": np.zeros((2, 2))}, r"a class must be a name or a number, got \[0.0, 0.0\]"),
    ):
        with pytest.raises(ValueError, match=words):
            pipe(**bad)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        next(pipe.stream(n=1, every=0))


def test_a_stream_ends_with_the_images_of_a_call(pipe):
    parts = list(pipe.stream(["Fig"], n=3, seed=2, every=5))
    assert [(p.step, p.total) for p in parts] == [(5, 16), (10, 16), (15, 16), (16, 16)]
    wanted = pipe(["Fig"], n=3, seed=2)
    assert np.array_equal(pixels(parts[-1].images), pixels(wanted))
    assert parts[-1].images[1].info["smalti"] == wanted[1].info["smalti"]


def test_partial_images_are_grey_where_nothing_is_drawn(pipe):
    parts = list(pipe.stream(n=2, seed=1, every=6))
    early = pixels(parts[0].images)  # one row of four cells and two cells more
    assert (early[:, 8:] == 128).all() and (early[:, 4:8, 8:] == 128).all()
    assert early[:, :4].std() > 5 and early[:, 4:8, :8].std() > 5


def test_known_codes_come_out_as_given_in_any_batch(pipe):
    codes = random_codes(pipe.model.spec, 5)
    mask = torch.zeros(5, 16, dtype=torch.bool)
    mask[:, ::2] = True
    wanted = pixels(pipe(n=5, known=Known(codes, mask)))
    close.pixels(pixels(pipe(n=5, batch=2, known=Known(codes, mask))), wanted, pipe.tokenizer)
    given = Known(codes, torch.ones(5, 16, dtype=torch.bool))
    assert np.array_equal(pixels(pipe(n=5, known=given)), pixels(to_pil(pipe.decode(codes))))
    with pytest.raises(ValueError, match=r"known codes must be \(5, 16\), got \(5, 9\)"):
        pipe(n=5, known=Known(codes[:, :9], mask))
    with pytest.raises(ValueError, match=r"mask of known codes must be \(5, 16\) bool, got \(5, 9"):
        pipe(n=5, known=Known(codes, mask[:, :9]))
    with pytest.raises(ValueError, match="bool, got .*int64"):
        pipe(n=5, known=Known(codes, mask.long()))


def test_a_png_remembers_how_to_draw_it_again(pipe, tmp_path):
    image = pipe(["plum"], n=3, seed=8, temperature=0.9, top_k=20)[2]
    save_png(image, tmp_path / "new" / "image.png")
    tag = png_metadata(tmp_path / "new" / "image.png")
    assert tag == image.info["smalti"]
    assert (tag["seed"], tag["index"], tag["class_name"]) == (8, 2, "plum")
    assert (tag["temperature"], tag["top_k"], tag["guidance"]) == (0.9, 20, 2.0)
    settings = {k: tag[k] for k in ("guidance", "temperature", "top_k", "top_p", "schedule")}
    again = pipe([tag["class"]], 1, seed=tag["seed"], first=tag["index"], **settings)
    assert np.array_equal(pixels(again)[0], np.asarray(Image.open(tmp_path / "new" / "image.png")))
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["image.png"]


def test_grid_layout():
    images = [Image.new("RGB", (3, 2), (i, 0, 0)) for i in range(5)]
    sheet = np.asarray(grid(images, columns=2, zoom=2))
    assert sheet.shape == (3 * 6 + 2, 2 * 8 + 2, 3)
    for i in range(5):
        y, x = 2 + 6 * (i // 2), 2 + 8 * (i % 2)
        assert (sheet[y : y + 4, x : x + 6] == (i, 0, 0)).all()
    assert (sheet[14:18, 10:16] == 255).all() and (sheet[:2] == 255).all()
    assert grid(images[:4]).size == (2 * 5 + 2, 2 * 4 + 2)
    with pytest.raises(ValueError, match="at least one image"):
        grid([])


def test_encode_and_decode_round_trip_through_uint8(pipe):
    images = pipe.decode(random_codes(pipe.model.spec, 2))
    assert images.dtype == torch.uint8 and images.shape == (2, 3, 16, 16)
    assert pipe.encode(images).shape == (2, 16)


def test_codes_on_another_grid_are_decoded(pipe):
    spec = replace(pipe.model.spec, grids=((3, 5),))
    codes = random_codes(spec, 2)
    images = pipe.decode(codes, spec)
    assert images.shape == (2, 3, 12, 20)
    with torch.inference_mode():
        assert torch.equal(images, to_uint8(pipe.tokenizer.decode(codes, spec)))
    with pytest.raises(ValueError, match=r"codes must be \(B, 16\), got \(2, 15\)"):
        pipe.decode(codes)


def test_one_picture_is_encoded_as_in_training(pipe):
    image = Image.effect_noise((40, 24), 90).convert("RGB")
    view = torch.from_numpy(Transform(16)(image, None))[None]
    assert torch.equal(pipe.encode(image), pipe.encode(view))
    assert torch.equal(pipe.encode(np.asarray(image)), pipe.encode(view.numpy()))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(1, 3, 16, 16), r"uint8 \(B, 3, 16, 16\), got float32 \(1, 3, 16, 16\)"),
        (torch.zeros(1, 3, 16, 8).byte(), r"uint8 \(B, 3, 16, 16\), got uint8 \(1, 3, 16, 8\)"),
        (np.zeros((1, 16, 16, 3), np.uint8), r"got uint8 \(1, 16, 16, 3\)"),
        ("nowhere.png", "no such file: nowhere.png"),
    ],
)
def test_other_images_are_not_encoded(pipe, images, words):
    with pytest.raises(ValueError, match=words):
        pipe.encode(images)


def test_codes_of_another_number_are_not_decoded(pipe):
    with pytest.raises(ValueError, match=r"codes must be \(B, 16\), got \(1, 15\)"):
        pipe.decode(torch.zeros(1, 15, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"codes must be in \[0, 32\), got 0 to 32"):
        pipe.decode(torch.arange(33)[None, 17:] * torch.tensor([0] + [1] * 15))
    with pytest.raises(ValueError, match="classes or prompts must be at least 1, got 0"):
        pipe.codes([])


# -- where, and in what


@pytest.mark.parametrize("name", ["llamagen", "var", "mar", "llamagen-text"])
def test_a_pipeline_in_bfloat16_does_all_that_one_in_float32_does(name):
    pipe = small(name)
    mark, image = small(name).fingerprint, Image.effect_noise((16, 16), 90)
    plain = pipe.encode(image)
    assert pipe.to(torch.bfloat16) is pipe and pipe.dtype == torch.bfloat16
    assert pipe.fingerprint == mark  # of the weights that were learned
    assert {p.dtype for p in pipe.tokenizer.parameters()} == {torch.float32}
    assert {str(t.dtype) for k, t in pipe.model.state_dict().items() if "quantize." in k} <= {
        "torch.float32"
    }
    assert torch.equal(pipe.encode(image), plain)
    ask = {"text": "a heart"} if pipe.text is not None else {"classes": 1}
    ask |= {} if pipe.model.spec.discrete else {"head_steps": "4"}
    (drawn,) = pipe(**ask, seed=1)
    *_, last = pipe.stream(**ask, seed=1, every=1)
    assert np.array_equal(pixels(last.images), pixels([drawn]))
    assert drawn.info["smalti"]["dtype"] == "bfloat16"
    hole = np.zeros((16, 16), bool)
    hole[8:] = True
    (edited,) = pipe.edit(image, hole, **ask, keep_pixels=True)
    assert np.array_equal(np.asarray(edited)[:8], np.asarray(image.convert("RGB"))[:8])


@pytest.mark.parametrize(
    ("places", "dtype"),
    [
        (("cpu",), torch.float32),
        (("auto",), torch.float32),
        ((torch.bfloat16,), torch.bfloat16),
        (("bf16",), torch.bfloat16),
        (("torch.bfloat16",), torch.bfloat16),
        (("cpu", torch.bfloat16), torch.bfloat16),
        ((torch.device("cpu"), "bfloat16"), torch.bfloat16),
    ],
)
def test_to_takes_devices_and_dtypes(places, dtype, monkeypatch):
    monkeypatch.setattr("smalti.devices.named.best_device", lambda: torch.device("cpu"))
    pipe = pipeline().to(*places)
    assert (pipe.device.type, pipe.dtype) == ("cpu", dtype)
    assert pipeline().to(device="cpu", dtype=dtype).dtype == dtype


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("gpu", "device 'gpu' cannot be used; a device is auto, cpu, cuda, cuda:1 or mps, and the"),
        ("meta", "device 'meta' cannot be used: it holds no numbers"),
        ("int8", "device 'int8' cannot be used"),
        (torch.int8, "dtype must be one of auto, float32, bfloat16, float16, got 'int8'"),
        (torch.float64, "dtype must be one of auto, .*, got 'float64'"),
        (1.5, "device '1.5' cannot be used"),
    ],
)
def test_other_places_are_one_line(pipe, place, words):
    with pytest.raises(ValueError, match=words) as error:
        pipe.to(place)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200
    assert (pipe.device.type, pipe.dtype) == ("cpu", torch.float32)


def test_load_takes_names_of_devices_and_dtypes(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr("smalti.devices.named.fast_bf16", lambda device: False)
    pipe.save_pretrained(tmp_path / "p")
    for dtype, wanted in (
        ("bfloat16", torch.bfloat16),
        ("bf16", torch.bfloat16),
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
        ("float32", torch.float32),
        ("auto", torch.float32),
        (None, torch.float32),
    ):
        assert smalti.load(tmp_path / "p", "cpu", dtype).dtype == wanted
    again = Pipeline.from_pretrained(tmp_path / "p", device="cpu", dtype="bfloat16")
    assert again.fingerprint == pipe.fingerprint and again.dtype == torch.bfloat16
    for bad, words in (
        ({"device": "gpu"}, "device 'gpu' cannot be used"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
        ({"device": "mps:7"}, "device 'mps:7' cannot be used"),
        ({"dtype": "int8"}, "dtype must be one of auto, float32, bfloat16, float16, got 'int8'"),
        ({"torch_dtype": torch.bfloat16}, "torch_dtype is dtype here"),
        ({"device_map": "auto"}, "device_map is device here: auto, cpu"),
        ({"devise": "cpu"}, "load has path, .*, verify, revision, got devise; .* 'device'"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            smalti.load(tmp_path / "p", **bad)
        assert len(str(error.value)) < 250


def test_a_pipeline_says_what_it_is(pipe):
    count = sum(p.numel() for p in pipe.model.parameters())
    assert repr(pipe).splitlines() == [
        f"Pipeline of llamagen, {count:,} parameters, draws 5 classes ({', '.join(NAMES)})",
        "  16 x 16 pixels as 16 codes out of 32, by vqgan",
        "  on cpu in float32",
    ]
    assert "draws texts" in repr(small("llamagen-text"))
    assert "as 16 codes of 6 numbers, by kl_vae" in repr(small("mar"))
    info = {"source": "shapes", "files": ["x"] * 99}
    facts = Pipeline(pipe.tokenizer, pipe.model, info=info).info
    assert repr(facts).startswith("source: 'shapes'\nfiles: ['x', 'x',") and len(repr(facts)) < 150
    assert facts == info and json.loads(json.dumps(facts)) == info


def test_the_package_shows_what_it_is_for():
    names = ["DiffusersPipeline", "Pipeline", "__version__", "list_models", "load"]
    assert dir(smalti) == [*names, "load_tokenizer"]
    with pytest.raises(
        AttributeError, match="no attribute 'from_hub'; it has load, Pipeline, list_models, .*Diff"
    ):
        _ = smalti.from_hub


# -- files


def test_codes_of_another_shape_are_refused(pipe):
    other = build(llamagen.LlamaGen, replace(llamagen.tiny(), vocab=33))
    with pytest.raises(ValueError, match="other codes.*vocab=32.*vocab=33"):
        Pipeline(pipe.tokenizer, other)


def test_another_tokenizer_is_refused(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "p")
    save_module(build(vqgan.VQGAN, vqgan.tiny(), seed=1), tmp_path / "p" / "tokenizer")
    mark = pipe.fingerprint.split("-")[0]
    with pytest.raises(ValueError, match=f"trained on codes of tokenizer {mark}, the folder holds"):
        smalti.load(tmp_path / "p")


def test_another_tokenizer_of_maps_is_refused(tmp_path):
    mapped = small("taming-map")
    mapped.save_pretrained(tmp_path / "p")
    assert smalti.load(tmp_path / "p").fingerprint == mapped.fingerprint
    mark, config = fingerprint(mapped.map), mapped.map.config
    save_module(build(vqgan.VQGAN, config, seed=1), tmp_path / "p" / "map")
    words = f"trained with maps of tokenizer {mark}, the folder holds map (?!{mark})"
    with pytest.raises(ValueError, match=words):
        smalti.load(tmp_path / "p")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("pipeline.json", "is not a pipeline: it has no pipeline.json"),
        ("tokenizer/config.json", "tokenizer is not a folder with a config.json"),
        ("model/model.safetensors", "model.safetensors cannot be read"),
    ],
)
def test_a_missing_file_is_named(pipe, tmp_path, file, message):
    pipe.save_pretrained(tmp_path / "p")
    (tmp_path / "p" / file).unlink()
    with pytest.raises(ValueError, match=message):
        smalti.load(tmp_path / "p")


def test_a_damaged_file_is_named(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "p")
    path = tmp_path / "p" / "pipeline.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"sampling": {"guidence": 2.0}}))
    with pytest.raises(ValueError, match="'guidence'; did you mean 'guidance'"):
        smalti.load(tmp_path / "p")
    path.write_text("{")
    with pytest.raises(ValueError, match="pipeline.json is not valid JSON"):
        smalti.load(tmp_path / "p")


# -- the hub


def test_push_uploads_a_folder_that_loads(pipe, monkeypatch):
    import huggingface_hub

    seen = {}

    class Api:
        def create_repo(self, repo, private, exist_ok):
            seen["repo"] = (repo, private, exist_ok)

        def file_exists(self, repo, name):
            assert (repo, name) == ("me/fruit", "README.md")
            return False

        def upload_folder(self, repo_id, folder_path):
            loaded = smalti.load(folder_path, device="cpu", dtype=torch.float32)
            seen["upload"] = (repo_id, loaded.fingerprint)
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert pipe.push_to_hub("me/fruit", private=True) == "https://hub/me/fruit"
    assert seen == {
        "repo": ("me/fruit", True, True),
        "upload": ("me/fruit", pipe.fingerprint),
    }


@pytest.mark.parametrize("path", [None, 5, ""])
def test_load_says_what_it_takes(path):
    with pytest.raises(ValueError, match=f"a folder, a name or a hub id, got {path!r}"):
        smalti.load(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [("cuda", r'pipe.to\("cuda"\)'), ("generate", r"pipe\(\.\.\."), ("save", "save_pretrained")],
)
def test_names_of_other_libraries_are_answered(pipe, name, words):
    with pytest.raises(AttributeError, match=f"^Pipeline has no '{name}'; .*{words}"):
        getattr(pipe, name)
    assert not hasattr(pipe, "_repr_html_") and not hasattr(pipe, "other")


def test_load_by_hub_id(pipe, tmp_path, monkeypatch):
    import huggingface_hub

    pipe.save_pretrained(tmp_path / "p")
    asked = []

    def snapshot(repo, allow_patterns):
        assert allow_patterns is None  # all files of a pipeline
        asked.append(repo)
        if repo != "me/fruit":
            raise OSError("401\nmore lines")
        return str(tmp_path / "p")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    loaded = smalti.load("me/fruit", device="cpu", dtype=torch.float32)
    assert loaded.fingerprint == pipe.fingerprint
    with pytest.raises(ValueError, match="me/other is not a folder, and the hub .*: 401$"):
        smalti.load("me/other")
    for bad in ("fruit", "./me/fruit", "/me/fruit", "a/b/c"):
        with pytest.raises(ValueError, match="neither a folder nor a hub id .*: there is no "):
            smalti.load(bad)
    assert asked == ["me/fruit", "me/other"] and not Path("me").exists()


def test_a_typo_in_a_path_where_there_is_no_network(tmp_path, monkeypatch):
    import huggingface_hub

    def snapshot(repo, allow_patterns):
        raise FileNotFoundError("cannot find it\nmore") from ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work" / "pipeline").mkdir(parents=True)
    for path, near in (("work/pipline", "pipeline"), ("wrok/pipeline", "work")):
        gone = path if near == "pipeline" else "wrok"
        with pytest.raises(
            ValueError,
            match=rf"^{path} is not a folder \(there is no {gone}; did you mean '{near}'\?\), and "
            r"the hub could not be asked \(ConnectionError: no network\)$",
        ):
            smalti.load(path)


def test_pictures_are_decoded_some_at_a_time(pipe, monkeypatch):
    codes, seen = pipe.codes([0, 1, 2, 3, 4]), []
    whole, decode = pipe.decode(codes), pipe.tokenizer.decode
    monkeypatch.setattr(coded, "DECODED", 2 * 16 * 16)
    monkeypatch.setattr(
        pipe.tokenizer, "decode", lambda part, spec: (seen.append(len(part)), decode(part, spec))[1]
    )
    assert pipe.tokenizer.size == (16, 16)
    assert (pipe.decode(codes).int() - whole.int()).abs().max() <= 1  # a level, by rounding
    assert seen == [2, 2, 1]
    assert pipe.decode(codes[:0]).shape == (0, 3, 16, 16)


def test_pictures_are_decoded_in_bfloat16_where_asked(pipe):
    whole = pipe([0, 1])
    assert "decoder_dtype" not in whole[0].info["smalti"]
    pipe.decoder_dtype = torch.bfloat16
    try:
        rough = pipe([0, 1])
    finally:
        pipe.decoder_dtype = torch.float32
    assert rough[0].info["smalti"]["decoder_dtype"] == "bfloat16"
    apart = [np.abs(np.float32(a) - np.float32(b)) for a, b in zip(whole, rough, strict=True)]
    assert 0 < np.mean(apart) < 3  # levels of 255


@pytest.mark.parametrize("name", tokenizers())
def test_a_gpu_decodes_any_tokenizer(name, monkeypatch):
    tokenizer = build(*tokenizers()[name])
    codes = random_codes(tokenizer.spec, 2)
    texts = ["a", "b"] if tokenizer.told else None
    monkeypatch.setattr(named, "HALF_DECODERS", ("cpu",))
    assert coded.decoded(tokenizer, codes, texts=texts).shape[:2] == (2, 3)
    for weight in tokenizer.parameters():
        if weight.dim() == 4:
            assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["vqgan", "multiscale_vqvae", "kl_vae", "unitok"])
def test_a_gpu_decodes_in_bfloat16_with_channels_last(name, monkeypatch):
    """The same on a CPU: close, on weights that can still learn."""
    tokenizer = build(*tokenizers()[name])
    codes = random_codes(tokenizer.spec, 3)
    exact = coded.decoded(tokenizer, codes)
    monkeypatch.setattr(named, "HALF_DECODERS", ("cpu",))
    half = coded.decoded(tokenizer, codes)
    apart = (half.float() - exact.float()).square().mean().sqrt()
    assert 0 < apart < 4  # of 255, of random weights
    each = (m for m in tokenizer.modules() if isinstance(m, nn.Conv2d))
    convolution = next(m for m in each if m.kernel_size == (3, 3))
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    tokenizer.train().requires_grad_(True)
    images = torch.rand(2, 3, *tokenizer.size)
    tokenizer.decode(tokenizer.encode(images)).mean().backward()
    assert convolution.weight.dtype == torch.float32 and not convolution.weight.is_inference()
