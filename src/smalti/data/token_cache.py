"""Encoded images in one Arrow file: written once, memory-mapped, read at random in training.

One row is an image: its codes in V views, label, caption, key, whether it is held out and, if
asked for, the features of its caption. Continuous codes may be kept as means and standard
deviations, of which every epoch draws anew. What made them (tokenizer, transform, source, text
encoder) is in the schema's metadata, so that codes are never mixed up with another tokenizer's.
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
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from smalti.codes import TokenSpec
from smalti.config import from_dict, to_dict
from smalti.data.source import digest, groups
from smalti.data.stream import Stream
from smalti.files import check_own, expand, replacing
from smalti.text.encoders import TextEncoder

META = b"smalti.token_cache"
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


def storage(spec: TokenSpec, half: bool = False) -> np.dtype:
    """The smallest type that holds a code; continuous codes are float32, or float16 if `half`."""
    if not spec.discrete:
        return np.dtype(np.float16 if half else np.float32)
    return np.dtype(
        np.uint8 if spec.vocab <= 1 << 8 else np.uint16 if spec.vocab <= 1 << 16 else np.int32
    )


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

    def differences(self, other: Encoding) -> list[str]:
        """Names of the fields that differ, but for the source's name, which may be another one of
        the same images."""
        names = [f.name for f in fields(self) if f.name != "source"]
        return [name for name in names if getattr(self, name) != getattr(other, name)]

    def metadata(self) -> dict[bytes, bytes]:
        """As it stands in the schema."""
        about = {
            "version": 1, "spec": to_dict(self.spec), "views": self.views,
            "tokenizer": self.tokenizer_fingerprint, "transform": self.transform,
            "source": self.source, "source_fingerprint": self.source_fingerprint,
            "classes": self.classes, "text": self.text, "posterior": self.posterior,
        }  # fmt: skip
        return {META: json.dumps(about).encode()}

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the codes of an image as they are stored, (V, N, ...)."""
        return (self.views, *stored(self.spec, self.posterior))


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
    """Whether a file is a token cache."""
    try:
        with pa.memory_map(str(path)) as file:
            return META in (pa.ipc.open_file(file).schema.metadata or {})
    except (pa.ArrowException, OSError):
        return False


def stored(spec: TokenSpec, posterior: bool) -> tuple[int, ...]:
    """Shape of what is stored of one view."""
    positions, *trailing = spec.shape(1)[1:]
    return (positions, 2 * spec.channels) if posterior else (positions, *trailing)


def _schema(encoding: Encoding) -> pa.Schema:
    """The columns of a cache."""
    code = pa.from_numpy_dtype(storage(encoding.spec, encoding.half))
    columns = [
        ("codes", pa.list_(code, math.prod(encoding.shape))),
        ("label", pa.int64()),
        ("caption", pa.string()),
        ("held_out", pa.bool_()),
        ("key", pa.string()),
    ]
    if encoding.text:
        columns.append(("text", pa.large_list(pa.float16())))
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
        yield codes


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


class TokenCache:
    """A file of `write_cache`, open for reading.

    Raises ValueError naming the file if it is missing, incomplete or something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = expand(path)
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(self.path)))
            table = reader.read_all()
            table.validate(full=True)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} is not a complete token cache: {error}") from None
        self._meta = (reader.schema.metadata or {}).get(META)
        if self._meta is None:
            raise ValueError(f"{path} is an Arrow file, but not a token cache")
        try:
            meta = json.loads(self._meta)
            self._open(table.select(COLUMNS + (["text"] if meta.get("text") else [])), meta)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}") from None

    def _open(self, table: pa.Table, meta: dict[str, Any]) -> None:
        if meta["version"] != 1:
            raise ValueError(f"version {meta['version']}, this smalti reads version 1")
        self.spec = from_dict(TokenSpec, meta["spec"])
        self.views: int = meta["views"]
        self.tokenizer: str = meta["tokenizer"]
        """Fingerprint of the tokenizer that made the codes."""
        self.transform: dict[str, int | str | bool] = meta["transform"]
        self.source: str = meta["source"]
        self.source_fingerprint: str = meta["source_fingerprint"]
        self.classes: list[str] = meta["classes"]
        self.encoder: dict[str, Any] | None = meta.get("text")
        """Type, config and fingerprint of the encoder that made the captions' features, if any."""
        self.posterior: bool = meta.get("posterior", False)
        """Whether means and standard deviations of codes are kept."""
        self.labels = table["label"].to_numpy()
        """(rows,) int64; -1 = none."""
        held = np.asarray(table["held_out"].to_pylist(), dtype=bool)
        self.train, self.held_out = np.flatnonzero(~held), np.flatnonzero(held)
        self._table = table
        shape = (-1, self.views, *stored(self.spec, self.posterior))
        self._parts = [chunk.flatten().to_numpy().reshape(shape) for chunk in table["codes"].chunks]

        self._length = len(self._parts[0])  # of every record batch but the last

    def __len__(self) -> int:
        return len(self.labels)

    def codes(
        self,
        indices: np.ndarray | list[int],
        views: np.ndarray | int = 0,
        seeds: np.ndarray | None = None,
    ) -> Tensor:
        """Codes of rows in a view each, (B, N, *trailing): int64 if discrete, float32 if not.

        Of a posterior the means or, given seeds (B,) int64, a sample for each seed. Raises
        ValueError for a row or view that does not exist.
        """
        rows = np.asarray(indices, dtype=np.int64)
        which = np.broadcast_to(np.asarray(views, dtype=np.int64), rows.shape)
        for name, given, end in (("rows", rows, len(self)), ("views", which, self.views)):
            if len(given) and (given.min() < 0 or given.max() >= end):
                raise ValueError(
                    f"{name} must be in [0, {end}), got {given.min()} to {given.max()}"
                )
        kind, shape = np.int64 if self.spec.discrete else np.float32, self._parts[0].shape[2:]
        out = np.empty((len(rows), *shape), kind)
        for slot, (row, view) in enumerate(zip(rows.tolist(), which.tolist(), strict=True)):
            out[slot] = self._parts[row // self._length][row % self._length, view]
        if self.spec.discrete and out.size and not 0 <= out.min() <= out.max() < self.spec.vocab:
            raise ValueError(
                f"{self.path} is damaged: codes must be in [0, {self.spec.vocab}), "
                f"got {out.min()} to {out.max()}"
            )
        if not self.spec.discrete and not np.isfinite(out).all():
            bad = rows[~np.isfinite(out).reshape(len(out), -1).all(1)]
            raise ValueError(
                f"{self.path} is damaged: codes of {', '.join(self.keys(bad[:4]))} are no numbers"
            )
        if self.posterior:
            out, std = np.split(out, 2, -1)
            if seeds is not None:
                out = out + std * normal(seeds, out.shape[1:])
        return torch.from_numpy(np.ascontiguousarray(out))

    def indices(self, split: Literal["train", "held_out", "all"]) -> np.ndarray:
        """Rows of a split, ascending."""
        splits = {"train": self.train, "held_out": self.held_out, "all": np.arange(len(self))}
        if split not in splits:
            raise ValueError(f"split must be one of {', '.join(splits)}, got {split!r}")
        return splits[split]

    def captions(self, split: Literal["train", "held_out", "all"] = "all") -> list[str]:
        return self.captions_of(self.indices(split))

    def captions_of(self, indices: np.ndarray | list[int]) -> list[str]:
        return self._table["caption"].take(pa.array(indices)).to_pylist()

    def text(self, indices: np.ndarray | list[int]) -> tuple[Tensor, Tensor]:
        """Features of the rows' captions, (B, T, C) float16 left padded with zeros, and their mask
        (B, T) bool. Raises ValueError if the cache has none, or some that are NaN or infinite."""
        if self.encoder is None:
            raise ValueError(f"{self.path} holds no features of captions")
        length, dim = (int(self.encoder["config"][name]) for name in ("length", "dim"))
        features = np.zeros((len(indices), length, dim), np.float16)
        mask = np.zeros((len(indices), length), bool)
        chunks = self._table["text"].chunks
        for slot, row in enumerate(np.asarray(indices).tolist()):
            found = chunks[row // self._length][row % self._length].values
            tokens = found.to_numpy(zero_copy_only=False).reshape(-1, dim)
            if not np.isfinite(tokens).all():
                (key,) = self.keys(np.array([row]))
                raise ValueError(f"{self.path} is damaged: features of {key} are no numbers")
            features[slot, length - len(tokens) :] = tokens
            mask[slot, length - len(tokens) :] = True
        return torch.from_numpy(features), torch.from_numpy(mask)

    @property
    def holdout(self) -> float:
        """The share that `data.source.split` was given, up to rounding: of groups of keys."""
        every, held = (
            len(set(groups(self.source, self.keys(rows))))
            for rows in (self.indices("all"), self.held_out)
        )
        return held / every

    def keys(self, rows: np.ndarray) -> list[str]:
        """The keys of rows: what their source calls them."""
        return self._table["key"].take(pa.array(rows)).to_pylist()

    @property
    def encoding(self) -> Encoding:
        """What the cache says that it is of."""
        codes = self._table.schema.field("codes").type.value_type
        return Encoding(
            self.spec,
            self.views,
            self.tokenizer,
            self.transform,
            self.source,
            self.source_fingerprint,
            self.classes,
            self.encoder,
            half=codes == pa.float16(),
            posterior=self.posterior,
        )

    def rows(self) -> Iterator[Row]:
        """All rows as `write_cache` takes them, codes and features in the types they are stored
        in."""
        captions, keys = self.captions(), self.keys(self.indices("all"))
        held = np.isin(self.indices("all"), self.held_out)
        codes = (row for part in self._parts for row in part)
        found = zip(codes, self.labels, captions, held, keys, strict=True)
        for i, (code, label, caption, out, key) in enumerate(found):
            text = None
            if self.encoder is not None:
                dim = int(self.encoder["config"]["dim"])
                value = self._table["text"][i].values
                text = value.to_numpy(zero_copy_only=False).reshape(-1, dim)
            yield Row(code, int(label), caption, bool(out), key, text)

    def require(self, tokenizer_fingerprint: str) -> None:
        """Raise ValueError unless that tokenizer made these codes."""
        if tokenizer_fingerprint != self.tokenizer:
            raise ValueError(
                f"{self.path} was encoded by tokenizer {self.tokenizer}, "
                f"but the tokenizer given is {tokenizer_fingerprint}; encode the images again"
            )

    def require_text(self, encoder_fingerprint: str) -> None:
        """Raise ValueError unless that text encoder made the captions' features."""
        made = self.encoder and self.encoder["fingerprint"]
        if made != encoder_fingerprint:
            told = f"of text encoder {made}" if made else "of none"
            raise ValueError(
                f"{self.path} holds caption features {told}, but the recipe's text encoder is "
                f"{encoder_fingerprint}; encode the images again with it"
            )

    def require_captions(self) -> None:
        """Raise ValueError if no image has a caption."""
        if not any(self.captions()):
            raise ValueError(f"{self.path}: the images of {self.source} have no captions")

    def fingerprint(self) -> str:
        """16 hex digits over the metadata, all labels and splits, and the codes of 64 rows."""
        sample = np.unique(np.linspace(0, len(self) - 1, 64).astype(np.int64)).tolist()
        codes = [self._parts[i // self._length][i % self._length].tobytes().hex() for i in sample]
        meta = json.loads(self._meta or b"{}")
        return digest([meta, self.labels.tolist(), self.held_out.tolist(), codes])


def normal(seeds: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers of each seed, (B, *shape) float32."""
    draws = [np.random.default_rng(s).standard_normal(shape, np.float32) for s in seeds.tolist()]
    return np.stack(draws)


class CodeBatches:
    """Batches {'codes': (b, N, *trailing), 'labels': int64 (b,)} of rows of a cache.

    The same stream as `smalti.data.loader.Images`; each item comes in a random view and, where the
    cache keeps deviations, as another sample in each epoch if `train`, else in view 0 and as its
    mean, with a 'chance' in [0, 1), float32 (b,), and a seed 'shuffle', int64 (b,), the same on any
    number of ranks. `evaluation` is always in order, in view 0, of means, and without these. With a
    text encoder there are also 'text_tokens' (b, T, ...) of the captions if it learns, else their
    cached features 'text' (b, T, C) and 'text_mask' (b, T).
    Raises ValueError if `indices` is empty or not in the cache, or for a bad batch, rank or seed.
    """

    def __init__(
        self,
        cache: TokenCache,
        indices: np.ndarray | list[int],
        batch: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        train: bool = True,
        encoder: TextEncoder | None = None,
    ) -> None:
        self.cache, self.train, self.encoder = cache, train, encoder
        self.rows = np.asarray(indices, dtype=np.int64)
        self._stream = Stream(len(self.rows), batch, seed, rank, world)
        if self.rows.min() < 0 or self.rows.max() >= len(cache):
            raise ValueError(f"indices must be in [0, {len(cache)}), got {self.rows}")

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, step: int) -> dict[str, Tensor]:
        """This rank's part of batch `step`."""
        items = self._stream.at(step)
        views = (self._stream.uniform(items) * self.cache.views).astype(np.int64)
        chance = np.floor(self._stream.uniform(items, key=2) * 2**24) / 2**24  # below 1 as float32
        shuffle, samples = (
            (self._stream.uniform(items, key=key) * 2**53).astype(np.int64) for key in (3, 4)
        )
        chosen = (views, samples) if self.train else (0, None)
        batch = self._gather(self.rows[items.positions], *chosen)
        drawn = {"chance": torch.from_numpy(chance).float(), "shuffle": torch.from_numpy(shuffle)}
        return batch | drawn

    def names(self, step: int) -> list[str]:
        """The keys of batch `step`, for messages."""
        return self.cache.keys(self.rows[self._stream.at(step).positions])

    def evaluation(self, batch: int) -> Iterator[dict[str, Tensor]]:
        """All rows once, in order; the last batch may be short."""
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        for start in range(0, len(self.rows), batch):
            yield self._gather(self.rows[start : start + batch], 0)

    def _gather(
        self, rows: np.ndarray, views: np.ndarray | int, seeds: np.ndarray | None = None
    ) -> dict[str, Tensor]:
        labels = self.cache.labels[rows]
        if not self.cache.classes:  # images without labels are one class
            labels = np.zeros_like(labels)
        batch = {"codes": self.cache.codes(rows, views, seeds), "labels": torch.from_numpy(labels)}
        if self.encoder is not None and self.encoder.learned:
            batch["text_tokens"] = self.encoder.tokenize(self.cache.captions_of(rows))
        elif self.encoder is not None:
            batch["text"], batch["text_mask"] = self.cache.text(rows)
        return batch
