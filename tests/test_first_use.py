"""msgspec looks at a struct when it is first used; two threads that both do so at once crash the process."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest

from edgetrt.update import built, record
from edgetrt.update.release import MANIFEST, Release
from edgetrt.update.states import State

PACKAGE = Path(built.__file__).parents[1]
ROOT = PACKAGE.parent

IN_THREADS = ("agent", "engine", "runtime", "update")
"""Packages whose code runs in several threads of one process."""

ALONE = {
    "spec.py",
    "repository.py",
    "memo.py",
    "ddi.py",
    "hawkbit.py",
    "home_assistant.py",
    "status.py",
}
"""What is read by one thread of one process only: of a build, a command, the hawkBit client."""

DIGEST = "0" * 64

THREADS = """
    import sys
    import threading
    from pathlib import Path
    from edgetrt import document
    from edgetrt.config import PipelineConfig
    from edgetrt.update import archive, built
    from edgetrt.update.record import FileStore
    folder = Path(sys.argv[1])
    sys.setswitchinterval(1e-6)
    for call in (
        lambda: built.read(folder, "0" * 64),
        lambda: archive.read(folder),
        lambda: FileStore(folder).load(),
        lambda: document.load(folder / "pipeline.yaml", PipelineConfig),
    ):
        together = threading.Barrier(4)
        threads = [
            threading.Thread(target=lambda call=call: (together.wait(), call())) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
"""


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    part = built.BuiltPipeline(name="a", engine="e", backend="b", precision="fp16", model="m")
    built.write(tmp_path, built.Built(digest=DIGEST, built_at=0.0, pipelines=(part,)))
    offered = record.Offer(envelope="")
    update = record.Record(
        offer=offered, state=State.BUILD, generation=1, digest="d", begun_at=0.0, entered_at=0.0
    )
    record.FileStore(tmp_path).save(record.Memory(record=update))
    release = Release(name="a", version="1", pipelines=(), files={})
    (tmp_path / MANIFEST).write_bytes(msgspec.json.encode(release))
    (tmp_path / "pipeline.yaml").write_text("name: a\nmodel: a.onnx\nsource: 'synthetic:64x64'\n")
    return tmp_path


@pytest.mark.parametrize("turn", range(3))
def test_threads_that_read_a_kind_of_document_first_live(documents: Path, turn: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(THREADS), str(documents)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"turn {turn}"


@pytest.mark.parametrize("package", IN_THREADS)
def test_decoders_are_made_where_modules_are_imported(package: str) -> None:
    """An import is for one thread at a time, and ends before another goes on."""
    files = [path for path in (PACKAGE / package).rglob("*.py") if path.name not in ALONE]
    assert files
    found = [
        f"{path.name}:{call.lineno}"
        for path in files
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) in ("msgspec.json.decode", "msgspec.msgpack.decode")
        and any(
            word.arg == "type" and ast.unparse(word.value)[0].isupper() for word in call.keywords
        )
    ]
    assert found == []
