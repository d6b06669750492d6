"""`edgetrt check` and `edgetrt inspect` as a person runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgetrt.cli import app
from edgetrt.errors import EdgetrtError
from tests.cli.command import PERSON, edgetrt
from tests.model.onnx_graphs import model, node, save

RAW_HEAD = PERSON.with_name("person_raw_head.onnx")


def test_the_raw_head_is_whole_on_orin_nx() -> None:
    arguments = ("--dla", "--target", "orin-nx-16gb", "--trt", "10.3", "--json")
    done = edgetrt("check", RAW_HEAD, *arguments)
    report = done.json()

    assert done.code == 0, done.err
    assert report["verdict"] == "full"
    assert report["dla"]["flops_share"] == 1.0
    assert report["dla"]["loadables"] <= 2
    assert {"name", "op", "device", "reason", "fix"} <= set(report["layers"][0])


def test_a_board_without_dla_says_why() -> None:
    done = edgetrt(
        "check", RAW_HEAD, "--dla", "--target", "orin-nano-8gb", "--trt", "10.13", "--json"
    )
    report = done.json()

    assert done.code == 0, done.err
    assert report["verdict"] == "no-dla"
    assert "has no DLA" in report["reason"]


def test_table_and_page(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["check", str(PERSON), "--dla", "--html", str(page)])

    assert result.exit_code == 0
    assert "partial" in result.stdout
    assert "head_split" in result.stdout
    assert "<svg" in page.read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--strict",), 65, "13 compute layers stay on the GPU"),
        (("--min-coverage", "1"), 65, "99.99% of the FLOPs"),
        (("--target", "orin-nx"), 78, "did you mean orin-nx-"),
        (("--precision", "fp8"), 78, "unknown precision"),
        (("--html", "/nowhere/page.html"), 78, "cannot be written"),
    ],
)
def test_what_is_not_met_is_an_error(arguments: tuple[str, ...], code: int, message: str) -> None:
    result = CliRunner().invoke(app, ["check", str(PERSON), "--dla", *arguments])

    assert isinstance(result.exception, EdgetrtError)
    assert result.exception.exit_code == code
    assert message in result.exception.message + result.exception.hint


def test_strict_ends_with_an_exit_code_and_no_traceback() -> None:
    done = edgetrt("check", PERSON, "--dla", "--strict", "--json")

    assert done.code == 65
    assert done.json()["verdict"] == "partial"
    assert "compute layers stay on the GPU" in done.err
    assert "Traceback" not in done.err


def test_rewrites_are_listed(tmp_path: Path) -> None:
    path = save(model([node("HardSwish", "x", "y")], {"x": (1, 8, 4, 4)}, ["y"]), tmp_path)
    plain, after = (
        json.loads(CliRunner().invoke(app, ["check", str(path), "--dla", "--json", *more]).stdout)
        for more in ((), ("--rewrite",))
    )

    assert (plain["verdict"], plain["rewrites"]) == ("none", [])
    assert after["verdict"] == "full"
    assert after["rewrites"][0]["rewrite"] == "activations"


def an_open_network(folder: Path, metadata: dict[str, str]) -> Path:
    made = model([node("Relu", "x", "y")], {"x": ("n", 3, "h", "w")}, ["y"], metadata=metadata)
    return save(made, folder)


def test_open_dimensions_are_filled_as_deploy_does_or_told_once(tmp_path: Path) -> None:
    known, unknown = (
        json.loads(
            CliRunner()
            .invoke(app, ["check", str(an_open_network(tmp_path, said)), "--json"])
            .stdout
        )
        for said in ({"imgsz": "[4, 4]"}, {})
    )

    assert known["verdict"] == "full"
    assert known["rewrites"][0]["rewrite"] == "static_shapes"
    assert unknown["verdict"] == "none"
    assert unknown["hint"].startswith("Dimensions of x are open")
    assert "input_size" in unknown["hint"]


def test_a_recipe_says_the_size_to_check_and_inspect(tmp_path: Path) -> None:
    made = model([node("Relu", "x", "y")], {"x": (1, 3, "h", "w")}, ["y"])
    recipe = tmp_path / "recipe.yaml"
    text = f"model: {save(made, tmp_path).name}\npreprocess: {{input_size: [4, 5]}}\n"
    recipe.write_text(text, encoding="utf-8")
    checked, seen = (
        json.loads(CliRunner().invoke(app, [name, str(recipe), "--json"]).stdout)
        for name in ("check", "inspect")
    )

    assert checked["verdict"] == "full"
    assert (seen["flops"], seen["image_size"]) == (3 * 4 * 5, [5, 4])
    assert any("pixels are given in RGB, 0..1" in note for note in seen["notes"])


def test_inspect_prints_one_object() -> None:
    report = json.loads(CliRunner().invoke(app, ["inspect", str(PERSON), "--json"]).stdout)

    assert report["labels"] == ["person"]
    assert report["image_size"] == [512, 384]
    assert report["flops"] > 1e9


def test_inspect_shows_a_table_and_names_what_is_no_network(tmp_path: Path) -> None:
    assert "1.721 GFLOP" in CliRunner().invoke(app, ["inspect", str(PERSON)]).stdout
    page = tmp_path / "net.onnx"
    page.write_text("<!DOCTYPE html><html></html>")
    done = edgetrt("inspect", page)

    assert done.code == 65
    assert "a web page" in done.err
