"""The FID Inception against torch-fidelity, with weights that both make by a hash.

Weights and resized images are exact, features 1e-4; in float64 they are stored as float32, and ours
agree to 1e-6.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, close, folders, load
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

import hashed
from smalti.features.inception import InceptionFID, load_inception, resize_tf1


@pytest.mark.parametrize("folder", folders("eval_inception_fid"))
@torch.no_grad()
def test_eval_inception_fid(folder: Path, tmp_path: Path):
    config, _, io = load(folder)
    state = hashed.weights(
        config["published_state_dict"]["tensors"],
        config["weights_kinds"],
        config["salt"],
        G=config["conv_gain"],
    )
    check_weights(state, config)
    path = tmp_path / "inception.safetensors"
    save_file(state, path)
    net = load_inception(path)
    sets = io.runs(r"(.+)\.images")
    for name in sets:
        check_resize(io, name)
        for feature, ours in features(net, io[f"{name}.images"], state).items():
            io.check(f"{name}.{feature}", ours, 1e-4)
            io.check(f"{name}.{feature}_f64", ours, 1e-4)
    exact = features(load_inception(path, torch.float64), io[f"{sets[-1]}.images"][:1], state)
    for feature, ours in exact.items():
        golden = io.get(f"{sets[-1]}.{feature}_f64")
        if golden is not None:
            close(ours, golden[:1], 1e-6)
    io.done()


def check_weights(state: dict[str, Tensor], config: dict[str, Any]) -> None:
    assert {k: hashed.crc(v) for k, v in state.items()} == config["checksums_crc32_all"]
    for name, about in config["checksums_dozen"].items():
        tensor = state[name].double()
        assert list(tensor.shape) == about["shape"]
        assert hashed.crc(state[name]) == about["crc32_le_f32_bytes"]
        assert tensor.flatten()[:3].tolist() == about["first3"]
        assert tensor.sum().item() == pytest.approx(about["sum"], rel=1e-9)
        assert tensor.abs().sum().item() == pytest.approx(about["abs_sum"], rel=1e-9)


def check_resize(io: Vectors, name: str) -> None:
    resized = resize_tf1(io[f"{name}.images"])
    sums = resized.double().sum((1, 2, 3))
    io.check(f"{name}.resized_sum_f64", sums, 1e-12)
    io.check(f"{name}.resized_first", resized[:1], 0)


def features(net: InceptionFID, images: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Everything that is stored of some images: what the network gives, and what goes through it on
    the way."""
    seen: dict[str, Tensor] = {}

    def note(name: str, take: str) -> Any:
        def hook(module: Any, inputs: tuple[Tensor], output: Tensor) -> None:
            seen[name] = (inputs[0] if take == "input" else output).clone()

        return hook

    hooks = [
        module.register_forward_hook(note(name, take))
        for name, module, take in (
            ("64", net.Conv2d_3b_1x1, "input"),
            ("192", net.Mixed_5b, "input"),
            ("768", net.Mixed_6e, "output"),
            ("6d", net.Mixed_6d, "input"),
            ("branch", net.Mixed_6d.get_submodule("branch1x1"), "output"),
        )
    ]
    found = net(images)
    for hook in hooks:
        hook.remove()
    raw = state["Mixed_6d.branch1x1.conv.weight"][:7].to(seen["6d"].dtype)
    grid = seen["branch"].shape[2:]
    spatial = found.spatial.view(-1, *grid, 7).permute(0, 3, 1, 2)
    assert torch.equal(spatial, seen["branch"][:, :7])
    return {
        **{f"feat_{name}": seen[name].mean((2, 3)) for name in ("64", "192", "768")},
        "feat_2048": found.pool,
        "feat_logits_unbiased": found.logits,
        "feat_logits": found.logits + state["fc.bias"],
        "mixed6d_1x1_prebn7": F.conv2d(seen["6d"], raw),
        "sfid_mixed6d_1x1_relu7": spatial,
    }
