"""The repository about itself: names, sizes, layers, links, and what it must not contain."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest

import edgetrt
from edgetrt import errors, ports
from tests import fakes

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "edgetrt").rglob("*.py"))
PROGRAMS = [*PACKAGE, *sorted(p for d in ("scripts", "engines") for p in (ROOT / d).rglob("*.py"))]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
PAGES += sorted(ROOT.glob("engines/*/README.md"))

EMPTY_NAMES = {"utils", "helpers", "common", "manager", "base", "core", "misc"}
MOST_LINES = 300
LATER = {
    errors.FleetError: "the fleet",
}
"""Errors whose raisers are still to come, and the part that brings them."""


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [relative(p) for p in PROGRAMS if {p.stem, p.parent.name} & EMPTY_NAMES] == []


def test_modules_stay_short() -> None:
    written = {relative(p): sum(map(bool, p.read_text().splitlines())) for p in PROGRAMS}

    assert {name: lines for name, lines in written.items() if lines >= MOST_LINES} == {}


def test_every_module_says_what_it_is_for() -> None:
    assert [relative(p) for p in PROGRAMS if not ast.get_docstring(ast.parse(p.read_text()))] == []


def test_nothing_is_left_to_do() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")

    assert [relative(p) for p in PROGRAMS if marks.search(p.read_text())] == []


def error_classes() -> list[type[errors.EdgetrtError]]:
    found = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return [kind for kind in found if issubclass(kind, errors.EdgetrtError)]


def is_made(kind: type) -> bool:
    made = re.compile(rf"\b{kind.__name__}\(")
    return any(made.search(p.read_text()) for p in PACKAGE if p.name != "errors.py")


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)
def test_every_error_is_drawn_in_the_tree_and_made_somewhere(
    kind: type[errors.EdgetrtError],
) -> None:
    assert re.search(rf"^ +{kind.__name__}\b", errors.__doc__ or "", re.MULTILINE)
    is_family = any(issubclass(other, kind) and other is not kind for other in error_classes())
    assert is_made(kind) or is_family or kind in LATER


def test_no_error_is_still_called_later_once_it_is_made() -> None:
    assert [kind.__name__ for kind in LATER if is_made(kind)] == []


def pairs() -> list[tuple[str, type, type]]:
    """Every port that has a fake of its name."""
    wanted = {name: kind for name, kind in vars(ports).items() if getattr(kind, "_is_protocol", 0)}
    return [
        (name, kind, getattr(fakes, f"Fake{name}"))
        for name, kind in wanted.items()
        if hasattr(fakes, f"Fake{name}")
    ]


def members(kind: type) -> dict[str, Any]:
    attributes = getattr(typing, "get_protocol_members", None)
    names = attributes(kind) if attributes else {n for base in kind.__mro__ for n in vars(base)}
    return {
        name: inspect.getattr_static(kind, name)
        for name in names
        if (not name.startswith("_") or name in ("__aenter__", "__aexit__"))
        and not hasattr(object, name)
        and name != "_is_protocol"
    }


@pytest.mark.parametrize(("port", "fake"), [p[1:] for p in pairs()], ids=[p[0] for p in pairs()])
def test_a_fake_can_be_called_as_its_port_is(port: type, fake: type) -> None:
    for name, member in members(port).items():
        if not inspect.isfunction(member):
            continue
        real = inspect.getattr_static(fake, name)
        assert inspect.iscoroutinefunction(real) == inspect.iscoroutinefunction(member), name
        offered = inspect.signature(real).parameters
        for parameter in inspect.signature(member).parameters.values():
            if parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
                assert parameter.name in offered, f"{name}({parameter.name})"


def test_the_ports_of_the_data_plane_have_fakes() -> None:
    assert {name for name, *_ in pairs()} >= {"Session", "Backend", "Source", "Sink", "Clock"}


PLANTED = {
    "agent": "import numpy",
    "runtime": "import asyncio",
    "model": "import edgetrt.cli",
    "sources": "import edgetrt.runtime",
}


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [program, "--no-cache"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "edgetrt", tmp_path / "edgetrt", ignore=ignored)
    shutil.copy(ROOT / ".importlinter", tmp_path)
    return tmp_path


def test_each_planted_wrong_import_is_caught(copy: Path) -> None:
    for part, statement in PLANTED.items():
        (copy / "edgetrt" / part / "planted.py").write_text(f"{statement}\n")

    done = lint_imports(copy)

    assert done.returncode == 1
    for part, statement in PLANTED.items():
        wrong = f"edgetrt.{part}.planted -> {statement.removeprefix('import ')}"
        assert wrong in done.stdout


def test_without_them_nothing_is(copy: Path) -> None:
    done = lint_imports(copy)

    assert done.returncode == 0, done.stdout


def test_a_part_that_exists_is_named_in_full_among_the_import_rules() -> None:
    rules = (ROOT / ".importlinter").read_text()

    for part in re.findall(r"edgetrt\.(\w+)\.\*\*", rules):
        assert not (ROOT / "edgetrt" / part / "__init__.py").exists(), f"write edgetrt.{part}"


def test_every_part_has_its_layer() -> None:
    rules = (ROOT / ".importlinter").read_text()
    parts = {p.stem for p in PACKAGE if p.parent.name == "edgetrt"} - {"__init__", "__main__"}
    parts |= {p.parent.name for p in PACKAGE if p.parent.parent.name == "edgetrt"} - {"edgetrt"}

    assert {part for part in parts if not re.search(rf"\bedgetrt\.{part}\b", rules)} == set()


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_in_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())

    near = [link for link in links if "://" not in link]
    assert [link for link in near if not (page.parent / link).exists()] == []


def names_in(path: Path) -> set[str]:
    """What a module defines: names at the top, and `Class.method`."""
    found = set[str]()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = [one for one in node.body if isinstance(one, ast.FunctionDef)]
            found |= {f"{node.name}.{one.name}" for one in inner}
        if isinstance(node, ast.Assign):
            found |= {one.id for one in node.targets if isinstance(one, ast.Name)}
    return found


def test_the_map_of_the_code_names_places_that_exist() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    places = re.findall(r"`([\w/]+\.py)(?::([\w.]+))?`", page)

    assert len(places) > 20
    for file, name in places:
        path = ROOT / "edgetrt" / file
        assert path.exists(), file
        assert not name or name in names_in(path), f"{file}:{name}"


def test_the_readme_names_only_scripts_that_can_be_run() -> None:
    named = set(re.findall(r"(?<![\w/])(?:\./)?(scripts/[\w-]+)", (ROOT / "README.md").read_text()))

    assert {"scripts/demo", "scripts/test", "scripts/check"} <= named
    assert {name for name in named if not os.access(ROOT / name, os.X_OK)} == set()


def test_the_ci_runs_the_readmes_commands() -> None:
    steps = (ROOT / ".ci/run").read_text()

    assert "./scripts/test\n" in steps
    assert "./scripts/demo --headless --frames 50\n" in steps


def test_the_changelog_knows_this_version() -> None:
    headings = re.findall(r"^## \[?([\w.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert edgetrt.__version__ in headings


def test_every_decision_is_in_the_list() -> None:
    listed = (ROOT / "docs/adr/README.md").read_text()
    decisions = [p.name for p in (ROOT / "docs/adr").glob("0*.md")]

    assert decisions
    assert [name for name in decisions if name not in listed] == []


def test_nothing_here_depends_on_one_machine() -> None:
    # Put together, so that this file does not find itself.
    places = [
        rf"(?<![\w.]){re.escape(place)}"
        for place in ("/wo" + "rk/", "/tm" + "p/w/", "/ro" + "ot/.")
    ]
    places += ["py" + r"pi\.(org|python)", "deb" + r"\.debian\.org", "archive" + r"\.ubuntu\.com"]
    forbidden = re.compile("|".join(places))
    found = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    texts = [ROOT / name for name in found if name and not name.endswith((".onnx", ".jpg", ".png"))]

    matches = {
        relative(p): forbidden.search(p.read_text(errors="replace")) for p in texts if p.is_file()
    }

    assert {name: match[0] for name, match in matches.items() if match} == {}
