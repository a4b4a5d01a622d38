"""Made-up requests of every kind that the description of the routes allows, and many that it does
not: none breaks the server, and it draws on."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("schemathesis")


@pytest.mark.slow
def test_made_up_requests(serve):
    server = serve("llamagen")
    before = server.generate(seed=1)
    tool = Path(sys.executable).with_name("schemathesis")
    place = f"http://127.0.0.1:{server.port}/openapi.json"
    command = [tool if tool.exists() else shutil.which("schemathesis"), "run", place]
    asked = "--max-examples 20 --checks not_a_server_error --request-timeout 20 --seed 1".split()
    done = subprocess.run([*command, *asked], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert server.generate(seed=1) == before
