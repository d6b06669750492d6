"""Commands from their arrival to their reply, with everything around them faked."""

from __future__ import annotations

import asyncio
import base64
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from edgetrt import wire
from edgetrt.agent.commands import LOG_BYTES, TABLE, Arguments, Command, Means, last
from edgetrt.agent.programs import Done
from edgetrt.config import ControlConfig, DeviceConfig
from edgetrt.errors import EdgetrtError, MessageError
from tests.agent.asking import OWN, SECOND, Asker, drive
from tests.fakes import FakeMessage


def one(folder: Path, name: str, **said: Any) -> Asker:
    """Send one command and wait for what comes of it."""
    options = {key: said.pop(key) for key in ("config", "done", "answer", "update") if key in said}

    async def scenario(asker: Asker) -> None:
        asker.send(name, **said)

    return drive(Asker(folder, **options), scenario)


def test_ping_is_answered_with_versions_and_times(tmp_path: Path) -> None:
    asker = one(tmp_path, "ping", by="ops")
    (reply,) = asker.replies
    assert asker.topics == [OWN + "a1"]
    assert (reply.ok, reply.code, reply.id, reply.command) == (True, "", "a1", "ping")
    assert (reply.result["epoch"], reply.result["version"], reply.result["uptime_s"]) == (
        7,
        "0.2.0",
        10.0,
    )
    assert asker.events.told == [("command", "ping", "a1 by 'ops': ok")]


def test_the_answer_goes_where_it_is_asked_for_with_its_correlation(tmp_path: Path) -> None:
    asker = one(tmp_path, "ping", topic=OWN + "elsewhere")
    assert asker.topics == [OWN + "elsewhere"]
    assert asker.transport.correlations == [b"mine"]


@pytest.mark.parametrize(
    "topic",
    [
        "edgetrt/v1/u/other/reply/a1",
        "edgetrt/v1/u/cam-1/status",
        "edgetrt/v1/u/cam-1/result/street",
        "edgetrt/v1/u/cam-1/reply/a/b",
        "edgetrt/v1/u/cam-1/reply/",
        "edgetrt/v1/u/cam-1/reply/../../other/reply/a",
        "edgetrt/v1/d/cam-1/cmd",
        "$SYS/x",
        "#",
        "a" * 5000,
    ],
)
def test_a_response_topic_that_is_not_a_reply_of_ours_is_refused(
    tmp_path: Path, topic: str
) -> None:
    asker = one(tmp_path, "restart-pipeline", arguments={"pipeline": "street"}, topic=topic)
    (reply,) = asker.replies
    assert (reply.ok, reply.code) == (False, "topic")
    assert asker.topics == [OWN + "a1"]
    assert asker.transport.correlations == [b"mine"]
    assert asker.asked == []


@pytest.mark.parametrize(
    ("name", "said", "code"),
    [
        ("nope", {}, "unknown"),
        ("ping; reboot", {}, "unknown"),
        ("ping", {"arguments": {"x": 1}}, "arguments"),
        ("snapshot", {}, "arguments"),
        ("snapshot", {"arguments": {"pipeline": "../x"}}, "arguments"),
        ("snapshot", {"arguments": {"pipeline": "street", "max_bytes": 10**9}}, "arguments"),
        ("logs", {"arguments": {"lines": 10**6}}, "arguments"),
        ("logs", {"arguments": {"lines": "5; reboot"}}, "arguments"),
        ("bench", {"arguments": {"pipeline": "street", "seconds": 1e9}}, "arguments"),
        ("ping", {"expires": 1_799_999_999.0}, "expired"),
        ("ping", {"expires_ns": 100 * SECOND}, "expired"),
        ("ping", {"retained": True}, "retained"),
        ("collect", {}, "disabled"),
    ],
)
def test_what_is_not_to_be_done_is_refused_with_a_code(
    tmp_path: Path, name: str, said: dict[str, Any], code: str
) -> None:
    allowed = tuple(row for row in TABLE if row != "collect")
    config = DeviceConfig(control=ControlConfig(commands=allowed))  # type: ignore[arg-type]
    asker = one(tmp_path, name, config=config, **said)
    (reply,) = asker.replies
    assert (reply.ok, reply.code) == (False, code)
    assert reply.error
    assert (asker.ran, asker.asked) == ([], [])
    assert [event for event, _, _ in asker.events.told] == ["command"]


def test_without_a_clock_an_expiry_by_it_cannot_be_kept(tmp_path: Path) -> None:
    async def scenario(asker: Asker) -> None:
        asker.wall = 12.0  # 1970
        asker.send("ping", "a1", expires=5.0)
        asker.send("ping", "a2", expires_ns=asker.mono_ns + SECOND)

    asker = drive(Asker(tmp_path), scenario)
    assert [(reply.id, reply.code) for reply in asker.replies] == [("a1", "clock"), ("a2", "")]


def test_the_same_id_is_done_once_until_it_is_forgotten(tmp_path: Path) -> None:
    async def scenario(asker: Asker) -> None:
        for _ in range(5):
            asker.send("ping")
        await asker.rest()
        asker.mono_ns += 599 * SECOND
        asker.send("ping")
        await asker.rest()
        assert (len(asker.replies), asker.answering.repeated) == (1, 5)
        asker.mono_ns += 2 * SECOND
        asker.send("ping")

    assert len(drive(Asker(tmp_path), scenario).replies) == 2


def test_more_than_its_rate_is_refused_and_comes_back(tmp_path: Path) -> None:
    async def scenario(asker: Asker) -> None:
        for number in range(12):
            asker.send("ping", f"a{number}")
            await asker.rest()
        asker.mono_ns += SECOND
        asker.send("ping", "later")

    codes = [reply.code for reply in drive(Asker(tmp_path), scenario).replies]
    assert codes == [""] * 10 + ["rate"] * 2 + [""]


def test_a_flood_is_counted_and_not_answered(tmp_path: Path) -> None:
    refused = 0

    async def scenario(asker: Asker) -> None:
        nonlocal refused
        for number in range(500):
            try:
                asker.send("nope", f"a{number}")
            except MessageError:
                refused += 1

    asker = drive(Asker(tmp_path), scenario)
    assert (len(asker.replies), refused) == (60, 440)
    assert len(asker.events.told) == 60


async def endless(means: Means, arguments: Arguments) -> dict[str, Any]:
    await asyncio.Event().wait()
    return {}


async def broken(means: Means, arguments: Arguments) -> dict[str, Any]:
    raise ZeroDivisionError("a fault of ours")


async def refusing(means: Means, arguments: Arguments) -> dict[str, Any]:
    raise EdgetrtError("the camera is on fire", "Put it out.")


def row(work: Any, deadline_s: float = 30.0) -> dict[str, Command]:
    return {"ping": Command("ping", "", work, Arguments, deadline_s, 10, 1.0)}


def test_what_takes_too_long_is_ended_and_told(tmp_path: Path) -> None:
    async def scenario(asker: Asker) -> None:
        asker.send("ping", "a1")
        asker.send("ping", "a2")

    asker = drive(Asker(tmp_path, table=row(endless, 0.05)), scenario)
    assert {(reply.id, reply.code) for reply in asker.replies} == {
        ("a1", "deadline"),
        ("a2", "busy"),
    }


@pytest.mark.parametrize(
    ("work", "told"), [(broken, "internal error"), (refusing, "the camera is on fire")]
)
def test_what_fails_is_answered(tmp_path: Path, work: Any, told: str) -> None:
    async def scenario(asker: Asker) -> None:
        asker.send("ping")

    (reply,) = drive(Asker(tmp_path, table=row(work)), scenario).replies
    assert reply.code == "failed"
    assert told in reply.error


def test_what_is_at_work_when_the_agent_ends_is_ended(tmp_path: Path) -> None:
    async def run() -> None:
        asker = Asker(tmp_path, table=row(endless))
        async with asker.transport:
            asker.send("ping")
            await asyncio.sleep(0)
            assert asker.answering.working
            await asyncio.wait_for(asker.answering.close(), 5)
            assert not asker.answering.working

    asyncio.run(run())


def test_a_reply_waits_for_the_connection(tmp_path: Path) -> None:
    async def scenario(asker: Asker) -> None:
        asker.transport.go_offline()
        asker.send("ping")
        await asyncio.sleep(0.05)
        assert asker.replies == []
        asker.transport.go_online()
        for _ in range(1000):
            if asker.replies:
                return
            await asyncio.sleep(0.005)

    assert drive(Asker(tmp_path), scenario).replies[0].ok


def test_a_measurement_does_not_disturb_an_update(tmp_path: Path) -> None:
    (reply,) = one(tmp_path, "bench", arguments={"pipeline": "street"}, update=True).replies
    assert (reply.code, reply.error) == ("busy", "bench: an update is on its way")


def test_doctor_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    said = json.dumps({"ok": False, "findings": []}).encode()
    asker = one(tmp_path, "doctor", done=Done(1, said, b"", False))
    assert asker.replies[0].result == {"ok": False, "findings": []}
    (argv,) = asker.ran
    assert argv[1:] == ["-m", "edgetrt", "doctor", "--json", "--config", "agent.yaml"]
    broken = one(tmp_path, "doctor", done=Done(78, b"", b"error: no file", False))
    assert (broken.replies[0].code, "no file" in broken.replies[0].error) == ("failed", True)


def test_logs_are_those_of_the_journal_or_else_our_own(tmp_path: Path) -> None:
    journal = one(tmp_path, "logs", arguments={"lines": 2}, done=Done(0, b"one\ntwo\n", b"", False))
    assert journal.replies[0].result == {"source": "journal", "lines": ["one", "two"], "cut": False}
    assert journal.ran[0][-2:] == ["-n", "2"]
    own = one(tmp_path, "logs", done=Done(1, b"", b"no access", False))
    assert own.replies[0].result["source"] == "agent"
    assert own.replies[0].result["lines"] == ["line 97", "line 98", "line 99"]


def test_the_last_lines_that_fit_are_kept() -> None:
    assert last(["a" * 10, "b" * 10, "c" * 10], 22) == ["b" * 10, "c" * 10]
    assert last(["x" * 100], 10) == ["x" * 10]
    assert last([], 10) == []
    many = last([f"{n} \u00e9\udc80" for n in range(100_000)], LOG_BYTES)
    assert sum(len(line.encode()) + 1 for line in many) <= LOG_BYTES


def test_a_snapshot_is_read_and_not_left(tmp_path: Path) -> None:
    (tmp_path / "snapshot-x.jpg").write_bytes(b"JPEG")
    told = wire.AnswerMessage(
        pipeline="street", what="snapshot", result={"file": "snapshot-x.jpg", "frame": 5}
    )
    asker = one(tmp_path, "snapshot", arguments={"pipeline": "street"}, answer=told)
    (reply,) = asker.replies
    assert base64.b64decode(reply.result["data"]) == b"JPEG"
    assert (reply.result["frame"], reply.result["media_type"]) == (5, "image/jpeg")
    assert asker.asked[0].limit == 96 * 1024
    assert not (tmp_path / "snapshot-x.jpg").exists()


@pytest.mark.parametrize("name", ["", "../secret", "/etc/passwd", "gone.jpg", "large.jpg"])
def test_a_picture_that_is_none_is_not_sent(tmp_path: Path, name: str) -> None:
    (tmp_path / "large.jpg").write_bytes(b"x" * 5000)
    told = wire.AnswerMessage(pipeline="street", what="snapshot", result={"file": name})
    asked = {"pipeline": "street", "max_bytes": 4096}
    (reply,) = one(tmp_path, "snapshot", arguments=asked, answer=told).replies
    assert (reply.code, reply.result) == ("failed", {})


def test_diagnostics_are_packed_and_the_last_two_stay(tmp_path: Path) -> None:
    (tmp_path / "update").mkdir()
    (tmp_path / "update" / "update.json").write_text("{}")
    done = Done(0, b'{"ok": true, "findings": []}', b"", False)

    async def scenario(asker: Asker) -> None:
        for number in range(4):
            asker.send("collect", f"a{number}")
            await asker.rest()
            asker.mono_ns += 120 * SECOND
            asker.wall += 120.0

    asker = drive(Asker(tmp_path, done=done), scenario)
    assert [reply.ok for reply in asker.replies] == [True] * 4
    files = sorted((tmp_path / "diagnostics").iterdir())
    assert len(files) == 2
    assert asker.replies[-1].result["path"] == str(files[-1])
    with tarfile.open(files[-1]) as tar:
        names = {Path(name).name for name in tar.getnames()}
        config = tar.extractfile("edgetrt/config.json")
        assert config is not None
        assert json.load(config)["control"]["unsigned_settings"] is False
    assert {"status.json", "doctor.json", "journal.txt", "agent.txt", "update.json"} <= names


def test_everything_is_written_down_and_the_file_stays_small(tmp_path: Path) -> None:
    asker = one(tmp_path, "nope", by="x" * 200, arguments={"huge": "y" * 10_000})
    path = tmp_path / "audit" / "commands.jsonl"
    (line,) = [json.loads(text) for text in path.read_text().splitlines()]
    assert (line["id"], line["command"], line["outcome"]) == ("a1", "nope", "unknown")
    assert line["arguments"] == {"bytes": 10_011}
    assert asker.audit.lost == 0
    begun = one(tmp_path, "ping", command_id="a2")
    assert [json.loads(text)["outcome"] for text in path.read_text().splitlines()[1:]] == [
        "begun",
        "ok",
    ]
    assert begun.replies[0].ok


def test_a_disk_that_takes_no_audit_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("a file where the folder should be")
    asker = one(tmp_path, "ping")
    assert asker.replies[0].ok
    assert asker.audit.lost == 2


def test_the_documentation_has_every_command() -> None:
    text = (Path(__file__).parents[2] / "docs" / "mqtt.md").read_text(encoding="utf-8")
    for command in TABLE.values():
        fields = ", ".join(f"`{name}`" for name in command.arguments.__struct_fields__)
        row_start = (
            f"| `{command.name}` | {fields}{' ' if fields else ''}| {command.deadline_s:g} s |"
        )
        assert row_start in text
        assert command.does in text


def test_no_command_is_no_command(tmp_path: Path) -> None:
    asker = Asker(tmp_path)
    for payload in (b"", b"{}", b'{"v":1,"kind":"command","id":"A B","command":"ping"}'):
        with pytest.raises(MessageError):
            asker.answering.take(FakeMessage(wire.cmd("cam-1"), payload))
    assert not asker.answering.working
