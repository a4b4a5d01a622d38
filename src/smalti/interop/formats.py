"""What a file or folder is, told by its first bytes: so that what is no checkpoint is named.

Most files that cannot be read are not damaged checkpoints but something else: the pointer that git
leaves where it does not fetch large files, a web page in place of a download, another library's
format.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

POINTER = b"version https://git-lfs.github.com/spec/"
AGAIN = "download it again"
MAGIC = (
    (POINTER, f"a Git LFS pointer, not the file itself; {AGAIN}, or run: git lfs pull"),
    (b"GGUF", "a GGUF file of llama.cpp, whose weights are quantized"),
    (b"lmgg", "a GGML file of llama.cpp, whose weights are quantized"),
    (b"\x89HDF\r\n", "an HDF5 file, as Keras writes"),
    (b"\x93NUMPY", "a single numpy array"),
    (b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (b"BZh", "compressed with bzip2; unpack it first"),
    (b"\xfd7zXZ", "compressed with xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"%PDF", "a PDF document"),
    (b"ARROW1", "an Arrow file"),
    (b"PAR1", "a Parquet file"),
)
"""First bytes of files that are no checkpoint of torch."""
HEAD = 4096


def head(path: Path) -> bytes:
    """The first bytes of a file."""
    with path.open("rb") as file:
        return file.read(HEAD)


def is_zip(path: Path) -> bool:
    """Whether a file is, or was to be, in the form that torch has written since 1.6."""
    return head(path).startswith(b"PK\x03\x04")


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as a safetensors file does: a length, then JSON."""
    first = head(path)
    length = int.from_bytes(first[:8], "little")
    return first[8:9] == b"{" and length < 100_000_000


def missing_bytes(path: Path) -> str:
    """What a safetensors file lacks if its end is missing, else ""."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length)
    size, end = path.stat().st_size, 8 + length
    if size >= end:
        try:
            ends = [t["data_offsets"][1] for n, t in json.loads(text).items() if n[:2] != "__"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return ""
        end += max((n for n in ends if isinstance(n, int)), default=0)
    return "" if size >= end else f"is incomplete, {size} of {end} bytes; {AGAIN}"


def foreign(path: Path) -> str:
    """What a file is that is no checkpoint, as the end of a sentence: "is ..."; "" if that cannot
    be told before it is read."""
    if path.stat().st_size == 0:
        return "is empty"
    first = head(path)
    for magic, name in MAGIC:
        if first.startswith(magic):
            return f"is {name}"
    if not first.strip(b"\0"):
        return f"begins with zeros alone, as a download does that was cut off; {AGAIN}"
    if first[257:262] == b"ustar":
        return "is a tar archive; unpack it first"
    if is_zip(path):
        return _archive(path)
    start = first.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if re.match(rb"<(!doctype|html|head|\?xml|!--)", start):
        return f"is a web page, not a checkpoint{_quoted(_title(first))}; {AGAIN}"
    if start[:1] in (b"{", b"[") and _is_text(first):
        return f"is JSON, not a checkpoint{_quoted(first)}"
    if re.match(rb"[\x81-\x8f\xde\xdf].{0,4}[\xa1-\xbf\xd9]", first, re.DOTALL):
        return "is msgpack, as JAX and flax write it; smalti reads files of torch"
    if re.match(rb"\x08[\x01-\x7f][\x12\x1a\x22\x2a\x32\x3a]", first):
        return "is an ONNX file or another protocol buffer; smalti reads files of torch"
    return ""


def text(path: Path) -> str:
    """What a file is that could not be read as a checkpoint, if it is text; else ""."""
    first = head(path)
    pickle = re.match(rb"\(?(c[\w.]+\n\w+\n|[dl]p\d)", first)  # of protocol 0, which is text
    return f"is text, not a checkpoint{_quoted(first)}" if _is_text(first) and not pickle else ""


def is_ours(path: Path) -> bool:
    """Whether a folder is a pipeline of smalti or a part of one."""
    config = path / "config.json"
    ours = config.is_file() and b'"fingerprint"' in config.read_bytes()
    return ours or (path / "pipeline.json").is_file()


def folder(path: Path) -> str:
    """What a folder is that holds no checkpoint: the end of a sentence."""
    if is_ours(path):
        return "is a pipeline, or a part of one, of smalti already"
    names = sorted(p.name for p in path.iterdir())
    if any(n.endswith(".distcp") for n in names):
        return "is a folder of torch.distributed.checkpoint; torch's dcp_to_torch makes it a file"
    if any(n.endswith((".pb", ".ckpt.index", "_METADATA", "_CHECKPOINT_METADATA")) for n in names):
        return "is a folder of TensorFlow or JAX; smalti reads files of torch"
    shown = ", ".join(names[:5]) + (", ..." if names[5:] else "")
    return f"is a folder; give a file in it (it has {shown})" if names else "is an empty folder"


def _archive(path: Path) -> str:
    """What a zip archive is; "" if it is a checkpoint of torch."""
    try:
        names = zipfile.ZipFile(path).namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return f"is incomplete or damaged: the end of its zip archive is missing; {AGAIN}"
    if any(name.endswith("constants.pkl") for name in names):
        return "is a TorchScript program, not a state dict"
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return ""
    if names and all(name.endswith(".npy") for name in names):
        return "is an .npz file of numpy arrays"
    shown = ", ".join(names[:3]) + (", ..." if names[3:] else "")
    return f"is a zip archive; unpack it first (it has {shown or 'nothing'})"


def _is_text(first: bytes) -> bool:
    try:
        line = first.decode()
    except UnicodeDecodeError as error:
        if error.start < len(first) - 3:  # not a letter that the end cuts in two
            return False
        line = first[: error.start].decode()
    return all(c.isprintable() or c in "\t\r\n" for c in line)


def _quoted(first: bytes) -> str:
    words = " ".join(first.decode(errors="ignore").split())
    return f": {words[:60]!r}" if words else ""


def _title(page: bytes) -> bytes:
    found = re.search(rb"<title[^>]*>(.*?)</title>", page, re.DOTALL | re.IGNORECASE)
    return found[1] if found else b""
