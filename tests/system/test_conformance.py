"""TUF's conformance suite against this device client, with our own fetchers in it.

The suite is in no package index: check https://github.com/theupdateframework/tuf-conformance out, and say
where: EDGETRT_TUF_CONFORMANCE=FOLDER scripts/test-system --only conformance
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")

pytestmark = [pytest.mark.system, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
SUITE = os.environ.get("EDGETRT_TUF_CONFORMANCE", "")


@pytest.mark.skipif(not SUITE, reason="EDGETRT_TUF_CONFORMANCE names no checkout of the suite")
def test_every_test_of_the_suite_passes(tmp_path: Path) -> None:
    client = tmp_path / "client"
    client.write_text(f'#!/bin/sh\nexec {sys.executable} -m edgetrt.update.conformance "$@"\n')
    client.chmod(0o755)
    plain = ["-q", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:randomly"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plain, "--entrypoint", client, "tuf_conformance"],
        cwd=SUITE,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{SUITE}"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    last = done.stdout.strip().splitlines()[-1]
    print(last)

    found = re.search(r"(\d+) passed", last)
    assert found, done.stdout[-3000:]
    assert int(found[1]) >= 113
    assert "failed" not in last, done.stdout[-3000:]
    assert "xfailed" not in last
