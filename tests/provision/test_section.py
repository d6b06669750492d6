"""One section of a YAML file replaced, the rest kept byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgetrt.errors import ConfigError
from edgetrt.provision.section import replaced

HERE = Path("agent.yaml")
NEW = {"broker": {"host": "broker.site", "port": 8883}}
BLOCK = "broker:\n  host: broker.site\n  port: 8883\n"

BEFORE = """\
# This device.
device: cam-1 # by the gate

broker: # the old one
  host: 127.0.0.1
  # a remark inside, which goes
  others: [a, b]

# A remark about publishing.
publish:
  result_hz: 5 # per pipeline
"""


def test_only_the_section_changes() -> None:
    after = replaced(BEFORE, HERE, NEW)
    assert (
        after == BEFORE[: BEFORE.index("broker:")] + BLOCK + BEFORE[BEFORE.index("\n# A remark") :]
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", BLOCK),
        ("# nothing yet\n", f"# nothing yet\n{BLOCK}"),
        ("device: a", f"device: a\n\n{BLOCK}"),
        ("broker: {host: x, port: 1}\ndevice: a\n", f"{BLOCK}device: a\n"),
        ("broker: {host: x,\n  port: 1}\ndevice: a\n", f"{BLOCK}device: a\n"),
        ("broker:\ndevice: a\n", f"{BLOCK}device: a\n"),
        ("broker:\n  host: x", BLOCK),
        ("broker:\n  others:\n    - a\n    - b\n# end\n", f"{BLOCK}# end\n"),
        ("broker:\n  host: |-\n    x\ndevice: a\n", f"{BLOCK}device: a\n"),
        ("---\nbroker:\n  host: x\n", f"---\n{BLOCK}"),
    ],
)
def test_ways_to_write_it(before: str, after: str) -> None:
    assert replaced(before, HERE, NEW) == after


@pytest.mark.parametrize(
    "text", ["{broker: {host: x}}\n", "- broker\n", "a: &x {host: y}\nbroker: *x\n"]
)
def test_what_cannot_be_replaced_by_lines_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"agent\.yaml"):
        replaced(text, HERE, NEW)


WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(WORDS, VALUES, max_size=3),
    st.dictionaries(WORDS, VALUES, min_size=1, max_size=3),
    st.booleans(),
)
def test_everything_else_means_what_it_meant(
    others: dict[str, object], section: dict[str, object], flow: bool
) -> None:
    before = {**others, "broker": section, "after": [1, {"x": "y"}]}
    text = yaml.safe_dump(before, sort_keys=False, allow_unicode=True, default_flow_style=None)
    if flow:
        text = yaml.safe_dump(before, sort_keys=False, allow_unicode=True)
    after = yaml.safe_load(replaced(text, HERE, NEW))
    assert after == {**before, **NEW}
    assert list(after) == list(before)
