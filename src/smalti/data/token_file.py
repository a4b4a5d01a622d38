"""The file of a token cache: encoded images in one Arrow file, written once.

One row is an image: its codes in V views, label, caption, key, whether it is held out and, if
asked for, the features of its caption. Continuous codes may be kept as means and standard
deviations, of which every epoch draws anew. What made them (tokenizer, transform, source, text
encoder) is in the schema's metadata, so that codes are never mixed up with another tokenizer's.

Unusual: codes that are bits, or numbers below 2, are packed, eight of them in a byte, view by view.
Such files have another version, which an older smalti refuses.
B images, V views, N positions, T tokens of a caption, C width of their features.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from smalti.codes import TokenSpec
from smalti.config import to_dict
from smalti.files import check_own, expand, replacing

PLAIN, PACKED = 1, 2
"""Versions of the file: a number for each code, and eight codes in a byte."""

META = b"smalti.token_cache"
DOCUMENTS = b"smalti.documents"
"""The marks of a token cache, and of a file of documents (`data.document_file`)."""
COLUMNS = ["codes", "label", "caption", "held_out", "key"]
ROWS = 1024
"""Rows of every record batch but the last."""


class Row(NamedTuple):
    codes: np.ndarray
    """(V, N, *trailing); of a posterior (V, N, 2 * channels): means, then standard deviations."""
    label: int
    """-1 = none."""
    caption: str
    """'' = none."""
    held_out: bool
    key: str
    text: np.ndarray | None = None
    """(tokens, C) features of the caption, where the cache keeps them."""
    map: np.ndarray | None = None
    """(V, M) codes of the image's map, where the cache keeps them."""
    wordings: tuple[str, ...] = ()
    """Other texts of the image, where the cache keeps them."""


def storage(spec: TokenSpec, half: bool = False) -> np.dtype:
    """The smallest type that holds a code; continuous codes are float32, or float16 if `half`."""
    if not spec.discrete:
        return np.dtype(np.float16 if half else np.float32)
    kinds = (np.uint8, np.uint16, np.int32, np.int64)
    return np.dtype(next(kind for kind in kinds if spec.vocab - 1 <= np.iinfo(kind).max))


@dataclass(frozen=True)
class Encoding:
    """What the codes of a cache are of, and how they are kept."""

    spec: TokenSpec
    views: int
    """V."""
    tokenizer_fingerprint: str
    transform: dict[str, int | str | bool]
    """How images became views: the fields of a `Transform`."""
    source: str
    source_fingerprint: str
    classes: list[str]
    text: dict[str, Any] | None = None
    """Type, config (with `length` and `dim`) and fingerprint of the encoder that made the features
    of captions, which are stored as float16; None: there are none."""
    half: bool = False
    """Continuous codes are stored as float16."""
    posterior: bool = False
    """Means and standard deviations of codes are stored."""
    map: dict[str, Any] | None = None
    """What the codes of maps are of: their `kind`, `spec`, the `fingerprint` of their tokenizer and
    of the maps (`source`); None: there are none."""
    wordings: bool = False
    """All texts that the source has of an image are stored."""
    holdout: float | None = None
    """The share that `data.source.split` was given; None: an older file, which does not say."""

    def differences(self, other: Encoding) -> list[str]:
        """Names of the fields that differ, but for the source's name, which may be another one of
        the same images, and for the share, which shows in the rows."""
        names = [f.name for f in fields(self) if f.name not in ("source", "holdout")]
        return [name for name in names if getattr(self, name) != getattr(other, name)]

    def metadata(self) -> dict[bytes, bytes]:
        """As it stands in the schema."""
        about = {
            "version": self.version, "spec": to_dict(self.spec), "views": self.views,
            "tokenizer": self.tokenizer_fingerprint, "transform": self.transform,
            "source": self.source, "source_fingerprint": self.source_fingerprint,
            "classes": self.classes, "text": self.text, "posterior": self.posterior,
        }  # fmt: skip
        if self.map:
            about["map"] = self.map
        if self.wordings:
            about["wordings"] = True
        if self.holdout is not None:
            about["holdout"] = self.holdout
        return {META: json.dumps(about).encode()}

    @property
    def version(self) -> int:
        """Of the file that is written."""
        return PACKED if self.spec.vocab == 2 else PLAIN

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the codes of an image, (V, N, ...)."""
        return (self.views, *unpacked(self.spec, self.posterior))

    @property
    def stored(self) -> tuple[int, ...]:
        """Of what is stored of an image, (V, ...)."""
        return (self.views, *stored(self.spec, self.posterior, self.version))


def write_cache(path: str | Path, rows: Iterable[tuple[Any, ...]], encoding: Encoding) -> int:
    """Write the rows (see `Row`) and return how many they were.

    The file appears under its name only when it is complete. Raises ValueError if there are no
    rows, or for a row that does not match the encoding, or whose codes or features are NaN or
    infinite.
    """
    path = expand(path)
    check_own(path, is_own)
    schema, count, rest = _schema(encoding), 0, iter(rows)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        with pa.ipc.new_file(file, schema) as writer:
            while chunk := [Row(*row) for row in islice(rest, ROWS)]:
                writer.write_batch(_record_batch(chunk, encoding, schema))
                count += len(chunk)
        if not count:
            raise ValueError(f"there are no rows to write to {path}")
        file.flush()
        os.fsync(file.fileno())
    return count


def is_own(path: Path) -> bool:
    """Whether a file holds codes that smalti wrote, of images or of documents."""
    return has_mark(path, META, DOCUMENTS)


def has_mark(path: Path, *marks: bytes) -> bool:
    """Whether a file is one of Arrow with one of the marks."""
    try:
        with pa.memory_map(str(path)) as file:
            return bool((pa.ipc.open_file(file).schema.metadata or {}).keys() & set(marks))
    except (pa.ArrowException, OSError):
        return False


def unpacked(spec: TokenSpec, posterior: bool) -> tuple[int, ...]:
    """Shape of the codes of one view, or of their means and standard deviations."""
    positions, *trailing = spec.shape(1)[1:]
    return (positions, 2 * spec.channels) if posterior else (positions, *trailing)


def stored(spec: TokenSpec, posterior: bool, version: int) -> tuple[int, ...]:
    """Shape of what a file of this version stores of one view."""
    shape = unpacked(spec, posterior)
    return (math.ceil(math.prod(shape) / 8),) if version == PACKED else shape


def pack(codes: np.ndarray, count: int) -> np.ndarray:
    """Codes of 0 and 1, (V, ...) with `count` in a view, as bytes (V, count / 8)."""
    return np.packbits(codes.reshape(-1, count), axis=1)


def unpack(packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bytes (..., n) as codes of 0 and 1, (..., *shape)."""
    rows = (*packed.shape[:-1], 8 * packed.shape[-1])
    bits = np.unpackbits(packed).reshape(rows)  # faster than along an axis
    return bits[..., : math.prod(shape)].reshape(*packed.shape[:-1], *shape)


def _schema(encoding: Encoding) -> pa.Schema:
    """The columns of a cache."""
    code = pa.from_numpy_dtype(storage(encoding.spec, encoding.half))
    columns = [
        ("codes", pa.list_(code, math.prod(encoding.stored))),
        ("label", pa.int64()),
        ("caption", pa.string()),
        ("held_out", pa.bool_()),
        ("key", pa.string()),
    ]
    if encoding.text:
        columns.append(("text", pa.large_list(pa.float16())))
    if encoding.map:
        columns.append(("map", pa.list_(pa.int32())))
    if encoding.wordings:
        columns.append(("wordings", pa.list_(pa.string())))
    return pa.schema(columns, metadata=encoding.metadata())


def _record_batch(chunk: list[Row], encoding: Encoding, schema: pa.Schema) -> pa.RecordBatch:
    """Rows as they are stored."""
    codes = np.concatenate([row.ravel() for row in _codes(chunk, encoding)])
    columns = [
        pa.FixedSizeListArray.from_arrays(pa.array(codes), type=schema.field("codes").type),
        pa.array([r.label for r in chunk], pa.int64()),
        pa.array([r.caption for r in chunk], pa.string()),
        pa.array([r.held_out for r in chunk], pa.bool_()),
        pa.array([r.key for r in chunk], pa.string()),
    ]
    if encoding.text:
        columns.append(_features(chunk))
    if encoding.map:
        rows = [None if r.map is None else r.map.ravel().tolist() for r in chunk]
        columns.append(pa.array(rows, schema.field("map").type))
    if encoding.wordings:
        columns.append(pa.array([list(r.wordings) for r in chunk], pa.list_(pa.string())))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _codes(chunk: list[Row], encoding: Encoding) -> Iterator[np.ndarray]:
    """The codes of each row, in the type that is stored. Raises ValueError for those that are none
    of the encoding."""
    spec, shape, dtype = encoding.spec, encoding.shape, storage(encoding.spec, encoding.half)
    for row in chunk:
        codes = np.asarray(row.codes)
        if codes.shape != shape:
            raise ValueError(f"codes of {row.key!r} must have shape {shape}, got {codes.shape}")
        if spec.discrete and (
            codes.min() < 0 or codes.max() >= spec.vocab or codes.dtype.kind == "f"
        ):
            raise ValueError(
                f"codes of {row.key!r} must be integers in [0, {spec.vocab}), "
                f"got {codes.dtype} in [{codes.min()}, {codes.max()}]"
            )
        with np.errstate(over="ignore"):
            codes = codes.astype(dtype)
        if not spec.discrete and not np.isfinite(codes).all():
            raise ValueError(
                f"codes of {row.key!r} must be finite numbers of {dtype}, got NaN or inf"
            )
        packed = encoding.version == PACKED
        yield pack(codes, math.prod(shape[1:])) if packed else codes


def _features(chunk: list[Row]) -> pa.Array:
    """The features of each row's caption, float16. Raises ValueError for those that are none."""
    rows = [np.zeros(0) if r.text is None else r.text.ravel() for r in chunk]
    with np.errstate(over="ignore"):
        values = [row.astype(np.float16) for row in rows]
    bad = [r.key for r, v in zip(chunk, values, strict=True) if not np.isfinite(v).all()]
    if bad:
        raise ValueError(
            f"caption features of {bad[0]!r} must be finite numbers of float16, got NaN or inf"
        )
    ends = pa.array(np.cumsum([0, *map(len, rows)]))
    return pa.LargeListArray.from_arrays(ends, pa.array(np.concatenate(values)))
