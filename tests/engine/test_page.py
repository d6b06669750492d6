from __future__ import annotations

import re
from html.parser import HTMLParser

import msgspec

from edgetrt.engine.page import page
from edgetrt.engine.report import Accuracy, Compared, Placed, Report, Tried

EVIL = "<script>alert('x')</script>&"


def report(**changes: object) -> Report:
    layers = [
        {"name": f"l{i}", "op": "Conv", "device": device, "reason": EVIL, "fix": "split it"}
        for i, device in enumerate(("dla", "gpu", "gpu", "folded"))
    ]
    whole = Report(
        name=EVIL,
        model=EVIL,
        engine="ab" * 32,
        cache="miss",
        backend="tensorrt",
        toolchain="tensorrt 10.3.0",
        device="a board",
        precision="int8",
        reason=EVIL,
        tried=[
            Tried(
                precision="int8",
                taken=True,
                value=0.995,
                loss=0.005,
                latency_ms=1.5,
                bytes=10**6,
                layers=7,
                everything=0.0,
                kept=[{"node": EVIL, "op": "Conv", "reason": EVIL, "loss": 0.1}],
            )
        ],
        placement=Placed(
            target="orin-nx-16gb",
            trt="10.3",
            verdict="partial",
            reason="",
            flops_share=0.5,
            conv_flops_share=0.5,
            layers_share=0.3,
            loadables=1,
            crossings=2,
            layers=layers,
            compared=Compared(
                source="log", agreed=1, compared=2, differing=["l1: GPU, built DLA"], missing=["l3"]
            ),
        ),
        rewrites=["fold_pad: Pad"],
        accuracy=Accuracy(
            measure="ap", value=0.995, limit=0.01, passed=True, per_class={EVIL: 0.995}, frames=32
        ),
        latency_ms={"median": 1.5, "p99": 2.0},
        throughput_qps=600.0,
        waterfall_ms={"read": 1.0, "infer": 2.0},
        bytes=10**6,
        build_s=3.0,
        steps_s={"build": 1.0},
        advice=["more frames"],
        warnings=["clocks"],
    )
    return msgspec.structs.replace(whole, **changes)


class Balance(HTMLParser):
    """Checks that what is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(text: str) -> Balance:
    found = Balance()
    found.feed(text)
    assert found.open == []
    return found


def test_it_shows_the_pictures_and_needs_nothing_from_outside() -> None:
    text = page(report())
    assert {"svg", "rect", "table", "details"} <= parsed(text).seen
    assert "script" not in parsed(text).seen
    assert not re.search(r"https?:|src=|url\(|@import", text)
    wanted = (
        "everything quantized: 0.0000",
        "agreement by class",
        "time of a frame by stage",
        "layers by device",
        "l1: GPU, built DLA",
        "fold_pad: Pad",
        "clocks",
        "more frames",
    )
    for words in wanted:
        assert words in text
    assert text.count("split it") == 1  # two layers with one reason share a row


def test_a_failed_gate_and_missing_parts() -> None:
    whole = report()
    assert whole.accuracy is not None
    failed = msgspec.structs.replace(whole.accuracy, passed=False)
    assert 'class="bad">failed' in page(report(accuracy=failed))
    bare = page(
        report(accuracy=None, latency_ms=None, throughput_qps=None, waterfall_ms={}, placement=None)
    )
    parsed(bare)
    assert "there were no frames" in bare
    assert "Not run on this machine" in bare
    assert "Placement" not in bare


def test_a_report_survives_its_storage() -> None:
    whole = report()
    assert msgspec.convert(msgspec.to_builtins(whole), Report) == whole
