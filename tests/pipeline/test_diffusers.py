"""The call shape of diffusers."""

import numpy as np
import pytest
import torch

from builders import pipeline
from smalti import DiffusersPipeline
from smalti.pipeline.sampling import Sampling


@pytest.fixture(scope="module")
def pipe():
    return DiffusersPipeline(pipeline("llamagen"))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(images) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images])


def test_pictures_of_a_prompt_stand_side_by_side(pipe):
    names = pipe.pipeline.classes[:2]
    made = pipe(names, num_images_per_prompt=2, guidance_scale=1.5, generator=seeded(3)).images
    told = [image.info["smalti"] for image in made]
    assert [t["class_name"] for t in told] == [names[0]] * 2 + [names[1]] * 2
    assert {t["guidance"] for t in told} == {1.5}
    again = pipe.pipeline(
        classes=[n for n in names for _ in "12"], seed=told[0]["seed"], guidance=1.5
    )
    assert np.array_equal(pixels(made), pixels(again))


def test_generators_go_on(pipe):
    one, same = seeded(1), seeded(1)
    first, second = (pipe(class_labels=0, generator=one).images for _ in "12")
    assert not np.array_equal(pixels(first), pixels(second))
    repeated = pipe(class_labels=0, generator=same).images
    assert np.array_equal(pixels(first), pixels(repeated))
    each = pipe(class_labels=[0, 0], generator=[seeded(1), seeded(2)]).images
    assert np.array_equal(pixels(each[:1]), pixels(first)) and len(each) == 2
    with pytest.raises(ValueError, match="give one generator or 2, one a picture, got 1"):
        pipe(class_labels=[0, 0], generator=[one])


def test_outputs(pipe):
    def called(**how):
        return pipe(class_labels=0, generator=seeded(0), **how)

    (picture,) = called().images
    array, tensor = (called(output_type=kind).images for kind in ("np", "pt"))
    assert np.array_equal(np.rint(array[0] * 255), np.asarray(picture))
    assert tensor.shape == (1, 3, *array.shape[1:3]) and float(tensor.max()) <= 1
    assert np.array_equal(tensor.permute(0, 2, 3, 1).numpy(), array)
    (images,) = called(return_dict=False)
    assert np.array_equal(pixels(images), pixels([picture]))


def test_a_callback_sees_steps_and_may_end_them(pipe):
    steps = []

    def seen(caller, step, total, kwargs):
        steps.append((step, total, len(kwargs["images"])))
        caller._interrupt = step >= 7

    whole = pipe.pipeline.model.spec.positions
    pipe(class_labels=[0, 1], callback_on_step_end=lambda *told: steps.append(told[1:3]))
    assert steps[-1] == (whole - 1, whole)
    steps.clear()
    (image, _) = pipe(class_labels=[0, 1], callback_on_step_end=seen).images
    assert steps[-1][0] >= 7 and steps[-1][2] == 2 and image.size == pipe.pipeline.tokenizer.size


@pytest.mark.parametrize(
    ("called", "words"),
    [
        ({}, "give prompt or class_labels, and not both"),
        ({"prompt": "Apple", "class_labels": 0}, "give prompt or class_labels, and not both"),
        ({"class_labels": 0, "output_type": "latent"}, "one of pil, np, pt, got 'latent'"),
        ({"class_labels": 0, "num_images_per_prompt": 0}, "num_images_per_prompt must be .* 1"),
        ({"class_labels": 0, "num_inference_steps": 8}, "steps 8 is for masked models"),
        ({"class_labels": 0, "latents": None}, "a call takes negative_prompt, .*, got latents"),
        ({"class_labels": 0, "guidance_scal": 2}, "got guidance_scal; did you mean 'guidance_sca"),
        ({"class_labels": 0, "negative_prompt": "x"}, "draws classes, not texts, got"),
    ],
)
def test_what_has_no_meaning_is_refused(pipe, called, words):
    with pytest.raises(ValueError, match=words):
        pipe(**called)


def test_loaded_by_its_own_words(pipe, tmp_path):
    pipe.pipeline.save_pretrained(tmp_path / "p")
    loaded = DiffusersPipeline.from_pretrained(str(tmp_path / "p"), torch_dtype=torch.bfloat16)
    assert loaded.to("cpu") is loaded and loaded.device.type == "cpu"
    assert loaded.dtype == torch.bfloat16
    assert loaded.pipeline.sampling == Sampling()


# -- of a pipeline that draws from texts


@pytest.fixture(scope="module")
def texts():
    info = {"styles": ["fluent3d", "noto"], "text_classes": ["Smileys", "Flags"]}
    return DiffusersPipeline(pipeline("maskbit-text", info=info))


def told(texts, **how):
    (image,) = texts("red heart", generator=seeded(1), **how).images
    return image.info["smalti"], np.asarray(image)


@pytest.mark.parametrize("scale", [0, 0.5, 1, np.float32(0), torch.tensor(0.5)])
def test_guidance_of_at_most_1_is_off(texts, scale):
    tag, picture = told(texts, guidance_scale=scale)
    assert tag["guidance"] == 1 and np.array_equal(picture, told(texts, guidance_scale=1.0)[1])
    assert told(texts, guidance_scale=3.5)[0]["guidance"] == 3.5


def test_steps_style_and_negative_prompts(texts):
    tag, picture = told(texts, num_inference_steps=2, guidance_scale=3, negative_prompt="blue")
    assert (tag["text"], tag["negative"], tag["steps"]) == ("red heart", "blue", 2)
    for none in ("", [""], None):
        tag, other = told(texts, num_inference_steps=2, guidance_scale=3, negative_prompt=none)
        assert "negative" not in tag and not np.array_equal(other, picture)
    made = texts(["a", "b"], negative_prompt=["", ""], num_images_per_prompt=2, style="noto").images
    assert [image.info["smalti"]["text"] for image in made] == ["a, noto"] * 2 + ["b, noto"] * 2
    assert texts(class_labels="flags", style="fluent").images[0].info["smalti"]["text"] == (
        "Flags, fluent3d"
    )
    with pytest.raises(ValueError, match="one of fluent3d, noto, got 'pixel'"):
        texts("a", style="pixel")
