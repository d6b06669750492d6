from __future__ import annotations

import threading

import pytest

from edgetrt.errors import ConfigError
from edgetrt.runtime.supervisor import unfit


def test_message_and_hint_are_apart_in_one_line() -> None:
    assert ConfigError("a: no such file", "Check the path.").in_line == (
        "a: no such file. Check the path."
    )
    assert ConfigError("a: no such file").in_line == "a: no such file"


def test_a_pipeline_that_fails_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    error = ConfigError("a.onnx: no such file", "Check the path.")
    unfit("street", error).run(threading.Event())
    assert "pipeline street: a.onnx: no such file. Check the path." in caplog.text
