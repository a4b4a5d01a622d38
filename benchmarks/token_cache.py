"""What do bits cost in a token cache, on the disk and when they are read, beside plain ids?

    python benchmarks/token_cache.py [--rows N] [--rounds N]

Both caches have 256 positions of so many bits, as bits or as ids that hold as many.
`bytes_per_position` is that of the whole file (target for 32 bits: at most 4.2).
`pictures_per_s` is read in batches of 64 random rows, the median of the rounds, in which the two
take turns; `ratio` is that of bits to ids (target: at least 1).
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np

from common import report, seconds
from smalti.codes import TokenSpec
from smalti.data.token_cache import TokenCache
from smalti.data.token_file import Encoding, write_cache

GRID, BATCH = ((16, 16),), 64


def cache(folder: Path, spec: TokenSpec, rows: int) -> TokenCache:
    """A cache of random codes."""
    rng, path = np.random.default_rng(0), folder / f"{spec.vocab}-{spec.channels}.arrow"
    codes = (rng.integers(0, spec.vocab, spec.shape(1)) for _ in range(rows))
    told = Encoding(spec, 1, "tokenizer", {"size": 256}, "folder:x", "source", [])
    write_cache(path, ((c, 0, "", False, str(i)) for i, c in enumerate(codes)), told)
    return TokenCache(path)


def every(cache: TokenCache, batches: list[np.ndarray]) -> None:
    """Read some batches, none of which is kept."""
    for rows in batches:
        cache.codes(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(1)
        for bits in (10, 16, 18, 32):
            ids = cache(Path(folder), TokenSpec(GRID, 1 << bits), args.rows)
            packed = cache(Path(folder), TokenSpec(GRID, 2, channels=bits), args.rows)
            speed = {"ids": [], "bits": []}
            for _ in range(args.rounds):
                some = [rng.integers(0, args.rows, BATCH) for _ in range(20)]
                for name, one in (("ids", ids), ("bits", packed)):
                    read = seconds(lambda one=one, some=some: every(one, some))
                    speed[name].append(len(some) * BATCH / read)
            found = {name: statistics.median(values) for name, values in speed.items()}
            size = packed.path.stat().st_size / (args.rows * 256)
            report(
                {
                    "bits": bits,
                    "bytes_per_position": size,
                    "ids_pictures_per_s": found["ids"],
                    "pictures_per_s": found["bits"],
                    "ratio": found["bits"] / found["ids"],
                }
            )


if __name__ == "__main__":
    main()
