"""Which board has a DLA under which TensorRT."""

from __future__ import annotations

import pytest

from edgetrt.errors import ConfigError
from edgetrt.model.targets import (
    availability,
    boards,
    default_trt,
    find_target,
    in_range,
    parse_version,
)


@pytest.mark.parametrize(
    ("target", "trt", "there"),
    [
        ("xavier-nx", "8.5", True),
        ("xavier-nx", "10.3", False),
        ("orin-nx-16gb", "8.5.2", True),
        ("orin-nx-16gb", "8.6", True),
        ("orin-nx-16gb", "10.3", True),
        ("orin-nx-16gb", "10.5", True),
        ("orin-nx-16gb", "10.7", True),
        ("orin-nx-16gb", "10.8", False),
        ("orin-nx-16gb", "10.16.2", False),
        ("orin-nx-16gb", "11.4.1", False),
        ("agx-orin-64gb", "11.2", False),
        ("agx-orin-64gb", "11.4.0", False),
        ("agx-orin-64gb", "11.4.1", True),
        ("agx-orin-64gb", "11.4", True),
        ("orin-nano-8gb", "10.3", False),
        ("thor-t5000", "11.4.1", False),
        ("orin-nx-16gb", "9.9", False),
    ],
)
def test_where_there_is_a_dla(target: str, trt: str, there: bool) -> None:
    found = availability(find_target(target), parse_version(trt))

    assert found.dla is there
    if not there:
        assert found.reason
        assert found.hint
        assert found.source.startswith("https://")


def test_a_release_without_dla_names_those_with_one() -> None:
    found = availability(find_target("orin-nx-16gb"), (10, 16, 2))

    assert "10.7 was the last" in found.reason
    assert "JetPack 6.1 to 6.2.3 (TensorRT 10.3.0 or 10.7)" in found.hint


def test_a_board_without_dla_names_those_with_one_and_the_release_too() -> None:
    found = availability(find_target("orin-nano-8gb"), (10, 13))

    assert "Jetson Orin Nano 8GB has no DLA" in found.reason
    assert "10.8 to 10.16" in found.reason
    assert "orin-nx-16gb" in found.hint


def test_an_unknown_target_lists_all_and_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as error:
        find_target("orin-nx16")

    assert "did you mean orin-nx-16gb?" in error.value.hint
    assert all(name in error.value.hint for name in boards().targets)


def test_a_version_is_numbers() -> None:
    with pytest.raises(ConfigError, match="no TensorRT version"):
        parse_version("latest")


def test_the_default_is_the_newest_with_a_dla() -> None:
    assert default_trt(find_target("xavier-nx")) == (8, 5, 2)
    assert default_trt(find_target("orin-nx-8gb")) == (10, 3, 0)
    assert default_trt(find_target("agx-orin-32gb")) == (11, 4, 1)
    assert default_trt(find_target("thor-t4000")) == (11, 4, 1)


@pytest.mark.parametrize(
    ("limits", "inside", "outside"),
    [
        (">=8.6.12", (10, 3), (8, 6)),
        ("<11", (10, 16, 2), (11, 0)),
        (">=10.8,<11.0", (10, 13), (10, 7)),
        ("=11.4.0", (11, 4, 0), (11, 4)),
        ("<=10.7", (10, 7, 1), (10, 8)),
        (">10.7", (10, 8), (10, 7)),
    ],
)
def test_ranges(limits: str, inside: tuple[int, ...], outside: tuple[int, ...]) -> None:
    assert in_range(inside, limits)
    assert not in_range(outside, limits)


def test_every_release_names_known_families() -> None:
    data = boards()
    families = {target.family for target in data.targets.values()}

    for release in data.releases:
        assert set(release.dla) <= set(release.families) <= families
        assert release.source in data.sources
