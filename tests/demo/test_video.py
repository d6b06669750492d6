"""The street video, from a package tool that is a script of ours."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from edgetrt.demo import video
from edgetrt.errors import SourceError

WRONG = b"another video"


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH, with an apt-get that "downloads" `package.tar` from it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script(
        folder / "apt-get",
        f'echo "$@" >> {folder}/asked; /bin/cp {folder}/package.tar opencv-doc_1_all.deb',
    )
    script(folder / "dpkg-deb", '/bin/cat "$2"')
    monkeypatch.setenv("PATH", str(folder))
    return folder


def script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def pack(folder: Path, name: str, content: bytes) -> None:
    with tarfile.open(folder / "package.tar", "w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


def fetched(cache: Path) -> tuple[SourceError, list[str]]:
    said: list[str] = []
    with pytest.raises(SourceError) as caught:
        video.fetch(cache, said.append)
    return caught.value, said


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_another_video_is_refused_and_not_kept(tools: Path, tmp_path: Path, ending: str) -> None:
    pack(tools, f"./usr/share/doc/vtest.avi{ending}", gzip.compress(WRONG) if ending else WRONG)
    error, said = fetched(tmp_path / "cache")
    assert hashlib.sha256(WRONG).hexdigest() in error.message
    assert video.SHA256 in error.message
    assert "--video" in error.hint
    assert len(said) == 1
    assert "download opencv-doc" in (tools / "asked").read_text()
    assert not list((tmp_path / "cache").iterdir())


def test_the_video_is_extracted_as_it_is(tools: Path, tmp_path: Path) -> None:
    pack(tools, "./usr/share/doc/vtest.avi.gz", gzip.compress(WRONG))
    found = video._extract(tools / "package.tar", tmp_path / "out.avi")
    assert found.read_bytes() == WRONG


def test_a_package_without_it_and_a_damaged_one_are_told(tools: Path, tmp_path: Path) -> None:
    pack(tools, "./usr/share/doc/readme", WRONG)
    assert "holds no vtest.avi" in fetched(tmp_path / "cache")[0].message
    (tools / "package.tar").write_bytes(b"<html>no package</html>")
    assert "is damaged" in fetched(tmp_path / "cache")[0].message
    pack(tools, "vtest.avi.gz", gzip.compress(WRONG * 1000)[:40])
    assert "is damaged" in fetched(tmp_path / "cache")[0].message


def test_what_the_package_tool_complains_of_is_passed_on(tools: Path, tmp_path: Path) -> None:
    script(tools / "apt-get", 'echo "E: Unable to locate package opencv-doc" >&2; exit 100')
    error, _ = fetched(tmp_path / "cache")
    assert "Unable to locate package" in error.message
    script(tools / "apt-get", "exit 0")
    assert "left no file" in fetched(tmp_path / "cache")[0].message


def test_without_a_package_tool_it_says_so(tools: Path, tmp_path: Path) -> None:
    (tools / "dpkg-deb").unlink()
    error, said = fetched(tmp_path / "cache")
    assert "dpkg-deb is not here" in error.message
    assert not said


def test_a_cache_that_cannot_be_written_is_told(tools: Path, tmp_path: Path) -> None:
    pack(tools, "vtest.avi", WRONG)
    blocked = tmp_path / "file"
    blocked.touch()
    error, _ = fetched(blocked / "cache")
    assert f"cannot be kept in {blocked / 'cache'}" in error.message
