from __future__ import annotations

from pathlib import Path

import pytest

from edgetrt import document
from edgetrt.config import BrokerConfig, DeviceConfig, PipelineConfig, broker
from edgetrt.errors import ConfigError

GOOD = "name: street\nmodel: a.onnx\nsource: clip.mp4\n"


def refusal(tmp_path: Path, text: str) -> ConfigError:
    path = tmp_path / "pipeline.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        document.load(path, PipelineConfig)
    assert caught.value.message.startswith(f"{path}:")
    return caught.value


@pytest.mark.parametrize(
    ("text", "where", "what", "hint"),
    [
        (GOOD + "task:\n  scor: 0.3\n", ":5: task.scor:", "unknown key", "Did you mean `score`?"),
        (GOOD + "task: {score: 2}\n", ":4: task.score:", "got 2", ""),
        (GOOD + "task: {score: high}\n", ":4: task.score:", "expected a number, got the text", ""),
        (GOOD + "depth: 9\n", ":4: depth:", "got 9", ""),
        (GOOD + "name: again\n", ":4: name:", "written twice", "line 1"),
        (GOOD + "sinks: [1]\n", ":4: sinks[0]:", "expected text, got 1", "quotes around it: '1'"),
        (GOOD + "backend: tea\n", ":4: backend:", "one of auto, tensorrt, onnxruntime", ""),
        (GOOD + "task: {kind: tea}\n", ":4: task.kind:", "one of auto, detect, raw, got 'tea'", ""),
        (GOOD + "depth: two\n", ":4: depth:", "expected a whole number, got the text 'two'", ""),
        (GOOD + "rate_hz: 1e3\n", ":4: rate_hz:", "a number, got the text", "write 1.0e+3"),
        (GOOD + "rate_hz: -2.5E4\n", ":4: rate_hz:", "a number, got the text", "write -2.5e+4"),
        (GOOD + "rate_hz: 0\n", ":4: rate_hz:", "expected a number > 0, got 0", ""),
        (GOOD + "task: high\n", ":4: task:", "keys and values, got the text 'high'", "indented"),
        (GOOD + "preprocess: {mean: [1, 2]}\n", ":4:", "a list of length 3, got 2", ""),
        (GOOD + "preprocess: {mean: 1}\n", ":4:", "expected a list, got 1", ""),
        (GOOD + "rate_hz: .inf\n", ":4: rate_hz:", "got inf", ""),
        (GOOD + "rate_hz: .nan\n", ":4: rate_hz:", "got nan", ""),
        (GOOD + "sinks: jsonl:a\n", ":4: sinks:", "a list, got the text 'jsonl:a'", "Write a list"),
        ("name: 2024-13-45\n", ":1: name:", "'2024-13-45' is no timestamp", "quotes"),
        ("name: !!int abc\n", ":1: name:", "'abc' is no int", "quotes"),
        ("name: !!bool abc\n", ":1: name:", "'abc' is no bool", "quotes"),
        (f"name: {'1' * 6000}\n", ":1: name:", "", ""),
        ("? [a, b]\n: c\n", ":1: (top level):", "a key is a list", "quotes"),
        (f"name: {'[' * 1500}", ":1:", "nested too deeply", ""),
        (
            "name: Big Street\nmodel: a\nsource: b\n",
            ":1: name:",
            "'-', at most 63; got 'Big Street'",
            "",
        ),
        ("name: street\nmodel: a\n", ":1: source:", "missing", "no default"),
        ("- a\n- b\n", ":1:", "expected keys and values", ""),
        (GOOD + "sinks: [\n", ":5:", "not valid YAML", "indentation"),
        (GOOD + "x: !!python/object:os.system {}\n", ":4: x:", "not allowed", "plain values"),
        (GOOD + "sinks: &a [*a]\n", ":4:", "nested too deeply", ""),
    ],
)
def test_mistakes_are_told_with_line_and_key(
    tmp_path: Path, text: str, where: str, what: str, hint: str
) -> None:
    error = refusal(tmp_path, text)
    assert where in error.message
    assert what in error.message
    assert hint in error.hint
    assert error.exit_code == 78


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        document.load(tmp_path / "none.yaml", PipelineConfig)
    with pytest.raises(ConfigError, match="cannot be read"):
        document.load(tmp_path, PipelineConfig)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"name: caf\xe9\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        document.load(latin, PipelineConfig)


def test_aliases_cannot_blow_a_file_up(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
    )
    assert "too many values" in refusal(tmp_path, bomb).message


def test_an_empty_file_has_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("# nothing set\n")
    assert document.load(path, DeviceConfig) == DeviceConfig()


def test_the_name_of_a_device_is_told_in_words(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("device: Cam_1\n")
    with pytest.raises(ConfigError, match=r"a device's name is lower-case letters.*got 'Cam_1'"):
        document.load(path, DeviceConfig)
    path.write_text("home_assistant: {prefix: a b}\n")
    with pytest.raises(ConfigError, match="'a b' has not the form") as caught:
        document.load(path, DeviceConfig)
    assert "A-Za-z0-9_-" in caught.value.hint


def test_overrides_are_checked_like_a_file() -> None:
    pipeline = PipelineConfig(name="a", model="b", source="c")
    assert document.override(pipeline, {"rate_hz": 5.0}).rate_hz == 5.0
    with pytest.raises(ConfigError, match=r"--rate-hz: expected a number > 0, got -1.0"):
        document.override(pipeline, {"rate_hz": -1.0})
    with pytest.raises(ConfigError, match=r"--backend: expected one of auto, .*, got 'tea'"):
        document.override(pipeline, {"backend": "tea"})


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("here", "here", 1883), ("10.0.0.1:99", "10.0.0.1", 99), ("[::1]:8883", "::1", 8883)],
)
def test_brokers_by_host_and_port(text: str, host: str, port: int) -> None:
    assert broker(text) == BrokerConfig(host=host, port=port)


@pytest.mark.parametrize("text", ["", ":1", "host:", "host:0", "host:65536", "a:b:c"])
def test_what_is_no_broker_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="HOST"):
        broker(text)
