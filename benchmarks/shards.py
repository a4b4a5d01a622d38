"""How much memory does a checkpoint in shards take beside the model that it becomes?

    python benchmarks/shards.py [--quick] [--folder DIR]

A decoder as Llama's of 0.7 billion parameters in bfloat16, 1.4 GB in shards of 0.2 GB, with random
weights, is written as transformers has it, beside a small text tokenizer and a small tokenizer of
pictures; all is deleted afterwards. Each case runs in a process of its own: `load` makes the
decoder of its folder, `float32` the same in another dtype, `convert` is the whole command, which
writes the pipeline too. Figures are the growth of resident memory, mapped pages of files among it,
from before to the peak: `beside_GB` is what is left when the model is taken off, `shards` that in
shards.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from common import report
from smalti.interop.language import load_language
from smalti.interop.projects import PROJECTS
from smalti.interop.projects.liquid import LiquidFiles
from smalti.text.words import FILE
from smalti.tokenizers.vqgan import VQGAN, VQGANConfig
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

CASES = ("load", "float32", "convert")
GB = 1e9
DIM, FFN, HEADS, VOCAB, CODES = 1536, 4096, 24, 32000, 64
MARKS = ("<boi>", "<eoi>", "<unconditional>", "<start_of_turn>", "<end_of_turn>", "<eos>")
VQ = VQGANConfig(
    size=(16, 16), channels=32, multipliers=(1, 1), blocks=1, latent=8, vocab=CODES, dim=8,
    l2_norm=False, deep_attention=False,
)  # fmt: skip


NAMES = {
    ".res.": ".block.", ".mid.0.": ".mid.block_1.", ".mid.1.": ".mid.attn_1.",
    ".mid.2.": ".mid.block_2.",
}  # fmt: skip
"""Parts of our names of the tokenizer of pictures, and its file's."""


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.bfloat16) * 0.02


def layer(number: int) -> dict[str, Tensor]:
    """The tensors of a layer, 57 MB."""
    begin = f"model.layers.{number}."
    weights = {f"self_attn.{part}_proj": drawn(DIM, DIM) for part in "qkvo"}
    weights |= {f"mlp.{part}_proj": drawn(FFN, DIM) for part in ("gate", "up")}
    weights |= {"mlp.down_proj": drawn(DIM, FFN)}
    weights |= {"input_layernorm": drawn(DIM), "post_attention_layernorm": drawn(DIM)}
    return {f"{begin}{name}.weight": tensor for name, tensor in weights.items()}


def write(folder: Path, layers: int) -> None:
    """Write the decoder, three layers or a table to a shard, and both tokenizers."""
    parts = [{"model.embed_tokens.weight": drawn(VOCAB, DIM)}]
    parts += [{"lm_head.weight": drawn(VOCAB, DIM), "model.norm.weight": drawn(DIM)}]
    index, count = dict[str, str](), len(parts) + -(-layers // 3)
    for i in range(count):
        numbers = range(layers)[3 * (i - 2) : 3 * (i - 1)] if i > 1 else ()
        part = parts[i] if i < 2 else {k: t for n in numbers for k, t in layer(n).items()}
        name = f"model-{i + 1:05}-of-{count:05}.safetensors"
        save_file(part, folder / name)
        index |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    told = {"model_type": "llama", "vocab_size": VOCAB, "num_hidden_layers": layers}
    told |= {"num_attention_heads": HEADS, "hidden_size": DIM, "intermediate_size": FFN}
    (folder / "config.json").write_text(json.dumps(told | {"dtype": "bfloat16"}))
    words(folder)
    torch.manual_seed(0)
    state = VQGAN(VQ).state_dict()
    torch.save({"state_dict": official(state)}, folder / "vqgan.ckpt")


def words(folder: Path) -> None:
    """A text tokenizer of bytes."""
    made = Tokenizer(models.BPE({a: i for i, a in enumerate(alphabet())}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True) for name in MARKS])
    made.save(str(folder / FILE))


def alphabet() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of the tokenizer of pictures as its file has them."""
    levels, found = len(VQ.multipliers), dict[str, Tensor]()
    for name, tensor in state.items():
        side, _, rest = name.partition(".conv_blocks.")
        if rest:
            number, _, part = rest.partition(".")
            number = number if side == "encoder" else str(levels - 1 - int(number))
            name = f"{side}.{'down' if side == 'encoder' else 'up'}.{number}.{part}"
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        found[name] = tensor
    return found


def memory(field: str) -> float:
    """Resident memory of this process in GB: VmRSS now, VmHWM at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / GB
    raise ValueError(f"the system says no {field}")


def measure(case: str, folder: Path) -> float:
    """The growth of resident memory up to the peak."""
    before = memory("VmRSS")
    if case == "convert":
        from smalti.interop.convert import convert

        files = LiquidFiles(folder / "vqgan.ckpt", folder, size="16")
        convert(PROJECTS["liquid"], files, folder / "out", "a benchmark")
    else:
        load_language(folder, torch.float32 if case == "float32" else None)
    return memory("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description="memory of checkpoints in shards")
    parser.add_argument("--quick", action="store_true", help="three layers: a trial")
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps({"GB": measure(options.case, options.folder)}))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write(folder, 3 if options.quick else 21)
        sizes = [file.stat().st_size / GB for file in folder.glob("*.safetensors")]
        for case in CASES:
            command = [sys.executable, __file__, "--case", case, "--folder", name]
            grown = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[
                "GB"
            ]
            model = sum(sizes) * (2 if case == "float32" else 1)
            beside = grown - model
            shutil.rmtree(folder / "out", ignore_errors=True)
            told = {"case": case, "files_GB": sum(sizes), "shard_GB": max(sizes)}
            told |= {"model_GB": model, "peak_GB": grown, "beside_GB": beside}
            report(told | {"shards": beside / max(sizes)})


if __name__ == "__main__":
    main()
