"""Commands of smalti in several processes at once, as `torchrun` starts them, without the seconds
that it takes to start itself."""

import os
import socket
import subprocess
import sys
import tempfile
import time


def launch(processes: int, *command: str, seconds: float = 300) -> str:
    """`smalti` in so many processes: what they said on standard error. All must succeed; where one
    fails, or after so many seconds, all are ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {"OMP_NUM_THREADS": "1", "WORLD_SIZE": str(processes)}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with tempfile.TemporaryFile("w+") as said:
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "smalti", *command],
                env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
            for rank in range(processes)
        ]
        end = time.monotonic() + seconds
        while None in (codes := [process.poll() for process in started]):
            if any(codes) or time.monotonic() > end:
                break
            time.sleep(0.05)
        for process in started:
            process.kill()
            process.wait()
        said.seek(0)
        text = said.read()
    assert codes == [0] * processes, f"{codes}: {text}"
    return text
