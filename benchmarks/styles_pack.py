"""Make the pictures that come with smalti: emoji in three styles, at 32 pixels.

    python benchmarks/styles_pack.py emoji3-64.parquet --out src/smalti/data/packs/styles-32.parquet

The parquet file given holds larger ones, with the columns of `smalti.data.styles`. Pictures are
laid over white, as training reads them, brought down by the mean of each block of pixels, and kept
as lossless WebP of 128 levels of each colour in place of 256, which takes 12 % less (measured on
every fortieth picture): no colour differs by more than 1 of 255. Prints a JSON line: how many
pictures, and how large the file is.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from smalti.data.decode import decode
from smalti.data.styles import COLUMNS, open_styles
from smalti.files import replacing
from smalti.progress import track

LEVELS = 127
"""Steps from black to white."""


def small(data: bytes, pixels: int) -> bytes:
    """A picture as a WebP of fewer pixels."""
    image = decode(data, "a row").resize((pixels, pixels), Image.Resampling.BOX)
    levels = np.round(np.asarray(image) / 255 * LEVELS)
    image = Image.fromarray(np.round(levels * 255 / LEVELS).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=True, quality=100, method=6)
    return file.getvalue()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", help="parquet file of larger pictures")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pixels", type=int, default=32)
    args = parser.parse_args(arguments)
    count = len(open_styles(args.file))  # what is wrong with it is told here
    table = pq.read_table(args.file, columns=list(COLUMNS))
    pictures = (value.as_py() for value in table["image"])
    files = [small(data, args.pixels) for data in track(pictures, "packing", of=count)]
    table = table.set_column(0, "image", pa.array(files, pa.binary()))
    with replacing(args.out) as temporary:
        pq.write_table(
            table, temporary, compression={name: "zstd" for name in COLUMNS[1:]} | {"image": "none"}
        )
    print(json.dumps({"pictures": count, "bytes": args.out.stat().st_size}))


if __name__ == "__main__":
    main()
