"""Make the pictures that `smalti/emoji64` learned: emoji in three styles, at 64 pixels.

    npm install emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 \\
        @lobehub/fluent-emoji-3d@1.1.0
    python benchmarks/styles_make.py node_modules --out emoji3-64.parquet

The packages hold the pictures. Which emoji there are, and what is said of them, is that of the file
of 32 pixels that comes with smalti (`styles`), which was made of the result (`styles_pack.py`): so
the same emoji are held out. Pictures of Noto and Twemoji have 64 pixels, those of Fluent 256, which
Lanczos' filter brings down. They are kept with their transparency, as lossless WebP. Of the 5,347
pictures that the weights learned all but five keycaps come out equal over white, and those five are
off by at most 13 of 255. The licences of the art are in `packs/LICENSE.md`. Prints a JSON line: how
many pictures, and how large the file is.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from smalti.data.styles import COLUMNS, PACK
from smalti.files import replacing
from smalti.progress import track

PIXELS = 64
FILES = {
    "noto": "emoji-datasource-google/img/google/64/{}.png",
    "twemoji": "emoji-datasource-twitter/img/twitter/64/{}.png",
    "fluent3d": "@lobehub/fluent-emoji-3d/assets/{}.webp",
}
"""Where a package has the picture of code points, by style."""


def picture(folder: Path, style: str, codepoints: str) -> bytes:
    """The picture of an emoji as a WebP: that of its code points without zeros before them, where
    a package has both. Raises ValueError if there is none."""
    short = "-".join(code.lstrip("0") for code in codepoints.split("-"))
    files = [folder / FILES[style].format(name) for name in (short, codepoints)]
    file = next(filter(Path.is_file, files), files[-1])
    if not file.is_file():
        raise ValueError(f"{file} does not exist: see the npm packages above, and their versions")
    with Image.open(file) as image:
        large = image.convert("RGBA")
    small = io.BytesIO()
    large.resize((PIXELS, PIXELS), Image.Resampling.LANCZOS).save(
        small, "WEBP", lossless=True, exact=True
    )
    return small.getvalue()


def made(folder: Path, table: pa.Table) -> pa.Table:
    """The rows of a table, whose pictures are those of packages in a folder."""
    rows = zip(table["style"].to_pylist(), table["codepoints"].to_pylist(), strict=True)
    files = [picture(folder, *row) for row in track(rows, "pictures", of=len(table))]
    return table.set_column(table.column_names.index("image"), "image", pa.array(files))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("packages", type=Path, help="the folder node_modules")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    table = made(args.packages, pq.read_table(PACK, columns=list(COLUMNS)))
    with replacing(args.out) as temporary:
        pq.write_table(table, temporary, compression="none")
    print(json.dumps({"pictures": len(table), "bytes": args.out.stat().st_size}))


if __name__ == "__main__":
    main()
