"""`edgetrt release` and `edgetrt update` as people type them: from keys to a staged release."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

pytest.importorskip("tuf", reason="the extra `update` is not installed")

from edgetrt.config import PipelineSettings
from edgetrt.update.desired import peek
from edgetrt.update.requests import Requests
from edgetrt.update.states import Code, State
from tests.cli.command import Done, edgetrt
from tests.update.device import Device, write_release

TARGET = "releases/street-1.0.tar"


class Desk:
    """A folder in which a person works."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ok(self, *arguments: object) -> Done:
        done = edgetrt(*arguments, cwd=self.folder)
        assert done.code == 0, done.err
        return done

    def refused(self, *arguments: object) -> str:
        done = edgetrt(*arguments, cwd=self.folder)
        assert done.code not in (0, 1, 70), done.err
        assert "Traceback" not in done.err
        return " ".join(done.err.split())

    def assign(self, generation: int, name: str, target: str = TARGET) -> None:
        words = ("--device", "cam-1", "--generation", generation, "--key", "keys/assignment-1.pem")
        self.ok("release", "assign", target, *words, "-o", f"{name}.json")
        self.ok("release", "bundle", target, "--desired", f"{name}.json", "-o", name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A repository with one published release, a bundle of it, a device that trusts it."""
    desk = Desk(tmp_path_factory.mktemp("desk"))
    desk.ok("release", "init")
    write_release(desk.folder / "src", "1.0", b"network" * 999)
    desk.ok("release", "add", "src/release.yaml")
    desk.ok("release", "sign")
    desk.ok("release", "publish")
    desk.assign(1, "one.edgetrt")
    shutil.copy(desk.folder / "repository/public/metadata/1.root.json", desk.folder / "root.json")
    (desk.folder / "agent.yaml").write_text(
        "device: cam-1\nupdate: {root: root.json, trust_clock: true}\n"
    )
    return desk


@pytest.fixture
def desk(made: Desk, tmp_path: Path) -> Desk:
    """A copy of it."""
    return Desk(Path(shutil.copytree(made.folder, tmp_path / "desk")))


IMPORT = ("--config", "agent.yaml", "--folder", "update", "--json")


def test_private_keys_are_private(made: Desk) -> None:
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (made.folder / "keys").glob("*.pem")}

    assert modes == {0o600}
    assert stat.S_IMODE((made.folder / "keys").stat().st_mode) == 0o700
    assert not list((made.folder / "repository").rglob("*.pem"))


def test_what_is_published_verifies(made: Desk) -> None:
    assert made.ok("release", "verify", "--json").json() == {"verified": [TARGET]}
    told = made.ok("release", "show", "--json").json()
    assert told["roles"]["root"]["threshold"] == 2
    assert told["targets"][TARGET]["custom"]["edgetrt"]["version"] == "1.0"
    assert told["staged"] == []


def test_a_changed_file_does_not_verify(desk: Desk) -> None:
    (packed,) = (desk.folder / "repository/public/targets/releases").glob("*.tar")
    packed.write_bytes(packed.read_bytes()[:-1] + b"x")

    assert "sha256" in desk.refused("release", "verify")


def test_signing_without_the_key_that_is_wanted_is_refused(desk: Desk) -> None:
    write_release(desk.folder / "src2", "2.0", b"network" * 9)
    desk.ok("release", "add", "src2/release.yaml")
    (desk.folder / "keys/targets-1.pem").rename(desk.folder / "targets-1.pem")
    shutil.copy(desk.folder / "keys/targets-1.pub.json", desk.folder)

    assert "nothing was signed" in desk.refused("release", "sign")
    assert "ready to publish" in desk.ok("release", "sign", "--key", "targets-1.pem").out
    assert "ready to publish" in desk.ok("release", "sign").out


@pytest.mark.slow
def test_a_release_is_staged_aborted_and_not_taken_twice(desk: Desk) -> None:
    staged = desk.ok("update", "import", "one.edgetrt", *IMPORT).json()["update"]
    assert (staged["state"], staged["code"], staged["target"]) == ("BUILD", None, TARGET)
    status = desk.ok("update", "status", "--folder", "update", "--json").json()
    assert (status["serving"], status["update"]["state"]) == ("", "BUILD")

    assert desk.ok("update", "abort", "--folder", "update", "--json").json()["done"] is True
    shown = desk.ok("update", "show", "--folder", "update").out
    assert "CANCELED" in shown
    assert "aborted" in shown
    again = desk.refused("update", "import", "one.edgetrt", *IMPORT)
    assert "a person did" in again


@pytest.mark.slow
def test_the_machine_goes_on_from_an_import_and_back_by_hand(desk: Desk) -> None:
    desk.ok("update", "import", "one.edgetrt", *IMPORT)
    folder = desk.folder
    shutil.move(folder / "update", folder / "device/update")
    root = (folder / "root.json").read_bytes()
    device = Device(folder / "device", root)
    assert device.settle().code is Code.SUCCEEDED
    assert "no release before" in desk.refused("update", "rollback", "--folder", "device/update")

    write_release(folder / "src2", "2.0", b"network" * 1000)
    desk.ok("release", "add", "src2/release.yaml")
    desk.ok("release", "sign")
    desk.ok("release", "publish")
    desk.assign(2, "two.edgetrt", "releases/street-2.0.tar")
    desk.ok("update", "import", "two.edgetrt", *IMPORT[:2], "--folder", "device/update")
    device.until(State.PROVE)
    assert "the switch has begun" in desk.refused("update", "abort", "--folder", "device/update")
    device.settle()
    asked = desk.ok("update", "rollback", "--folder", "device/update", "--json").json()
    assert asked == {"asked": "rollback", "done": False}
    assert Requests(folder / "device/update").pending() is not None
    assert Device(folder / "device", root).settle().code is Code.ROLLED_BACK
    assert TARGET in desk.ok("update", "status", "--folder", "device/update").out


def test_a_bundle_for_another_device_is_refused(desk: Desk) -> None:
    text = (desk.folder / "agent.yaml").read_text().replace("cam-1", "cam-2")
    (desk.folder / "agent.yaml").write_text(text)

    assert "for cam-1, this is 'cam-2'" in desk.refused("update", "import", "one.edgetrt", *IMPORT)


def test_a_damaged_bundle_is_refused_and_nothing_is_staged(desk: Desk) -> None:
    path = desk.folder / "one.edgetrt"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"networknetwork", b"netwerknetwork", 1))

    assert "sha256" in desk.refused("update", "import", "one.edgetrt", *IMPORT)
    assert list((desk.folder / "update/releases").iterdir()) == []


def test_no_bundle_is_told(desk: Desk) -> None:
    (desk.folder / "noise").write_bytes(b"noise" * 1000)

    assert "not a bundle" in desk.refused("update", "import", "noise", *IMPORT)
    assert "no such file" in desk.refused("update", "import", "nowhere", *IMPORT)


def test_a_device_that_trusts_nobody_takes_nothing(desk: Desk) -> None:
    (desk.folder / "agent.yaml").write_text("device: cam-1\n")

    assert "no `update` section" in desk.refused("update", "import", "one.edgetrt", *IMPORT)


def test_a_key_that_others_can_read_signs_nothing(desk: Desk) -> None:
    (desk.folder / "keys/targets-1.pem").chmod(0o644)

    assert "mode 0644, expected 0600" in desk.refused("release", "sign")


@pytest.mark.slow
def test_a_rotation_needs_the_old_keys_and_the_new(desk: Desk) -> None:
    desk.ok("release", "rotate", "root", "--new", "root-4")
    (staged,) = desk.ok("release", "sign", "--key", "keys/root-4.pem", "--json").json()["staged"]
    assert (staged["signed"], staged["version"]) == (1, 2)
    assert "signatures" in desk.refused("release", "publish")

    desk.ok("release", "sign")
    assert desk.ok("release", "publish", "--json").json()["versions"]["root"] == 2
    assert desk.ok("release", "verify", "--json").json() == {"verified": [TARGET]}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: Street\nversion: '1'\npipelines: [{pipeline: street.yaml}]\n", "name"),
        ("name: s\nversion: '1'\npipelines: []\n", "pipelines"),
        ("name: s\nversion: '1'\npipelines: [{pipeline: ../street.yaml}]\n", "inside the release"),
        ("name: s\nversion: '1'\npipelines: [{pipeline: none.yaml}]\n", "no such file"),
        ("name: s\nversion: '1'\nfiles: [none]\npipelines: [{pipeline: street.yaml}]\n", "none"),
    ],
)
def test_a_wrong_release_file_is_told_where(desk: Desk, text: str, told: str) -> None:
    (desk.folder / "src/release.yaml").write_text(text)

    assert told in desk.refused("release", "add", "src/release.yaml")


def test_everything_that_a_release_can_need_is_signed(desk: Desk) -> None:
    path = desk.folder / "src/release.yaml"
    needs = "{boards: [orin-nx-16gb], tensorrt_min: '8.5', l4t_min: '36.3', memory_mb: 4000}"
    path.write_text(path.read_text().replace("needs: {}", f"needs: {needs}").replace("1.0", "1.1"))
    desk.ok("release", "add", "src/release.yaml")
    desk.ok("release", "sign")
    desk.ok("release", "publish")

    assert len(desk.ok("release", "verify", "--json").json()["verified"]) == 2


def test_a_network_outside_the_release_is_refused(desk: Desk) -> None:
    (desk.folder / "src/recipe.yaml").write_text("model: ../../elsewhere.onnx\n")

    assert "outside the release's folder" in desk.refused("release", "add", "src/release.yaml")


def test_the_table_is_printed(made: Desk) -> None:
    rows = made.ok("update", "table", "--json").json()["rows"]
    text = made.ok("update", "table").out

    assert [row["state"] for row in rows] == [state.value for state in State]
    for row in rows:
        assert row["does"] in text
        assert row["state"] in text


def test_a_device_without_updates_says_so(made: Desk, tmp_path: Path) -> None:
    assert "no release" in made.ok("update", "status", "--folder", tmp_path).out
    assert "No update was ever" in made.ok("update", "show", "--folder", tmp_path).out
    assert "no update" in made.refused("update", "abort", "--folder", tmp_path)


def test_settings_are_assigned_with_a_release_or_alone(desk: Desk) -> None:
    words = ("--device", "cam-1", "--generation", 3, "--key", "keys/assignment-1.pem")
    both = ("--setting", "street.rate_hz=5", "--setting", "street.only=[person, bus]")
    desk.ok("release", "assign", *words, *both, "-o", "alone.json")
    desk.ok("release", "assign", TARGET, *words, *both[:2], "-o", "with.json")

    alone = peek((desk.folder / "alone.json").read_bytes())
    assert (alone.target, alone.sha256, alone.length) == ("", "", 0)
    assert alone.settings == {"street": PipelineSettings(rate_hz=5.0, only=("person", "bus"))}
    assert peek((desk.folder / "with.json").read_bytes()).target == TARGET


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "neither a release nor a setting"),
        (("--setting", "street"), "expected PIPELINE.NAME=VALUE"),
        (("--setting", "street.rate_hz=-1"), "rate_hz"),
        (("--setting", "street.colour=red"), "colour"),
        (("--setting", "Street!.rate_hz=1"), "at `key` in `$.settings`"),
    ],
)
def test_a_wrong_setting_is_told(desk: Desk, options: tuple[str, ...], told: str) -> None:
    words = ("--device", "cam-1", "--generation", 3, "--key", "keys/assignment-1.pem")

    assert told in desk.refused("release", "assign", *words, *options, "-o", "x.json")
