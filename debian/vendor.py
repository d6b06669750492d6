"""The vendor folder of the package: pinned wheels, fetched by platform tag, side by side for every Python.

    vendor.py lock             write each list's .lock from its .in: the hash of every wheel
    vendor.py fill ARCH FOLDER SBOM   fetch, check and unpack the wheels for ARCH

One folder serves several Pythons, because compiled modules carry the ABI in their names
(`_core.cpython-310-aarch64-linux-gnu.so`) and everything else is the same file in each wheel of a
version. Where it is not, `fill` stops. A library in two versions, of which the device decides, is
in a list and a folder of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import uuid
import zipfile
from dataclasses import asdict, dataclass, field
from email.parser import HeaderParser
from fnmatch import fnmatch
from pathlib import Path


@dataclass
class Part:
    """One library of the folder.

    Attributes:
        version: of it.
        licence: as its maker writes it.
        summary: one line.
        per_python: whether each Python has a wheel of its own.
        hashes: SHA-256 of the wheels taken.
    """

    version: str
    licence: str
    summary: str
    per_python: bool
    hashes: list[str] = field(default_factory=list)


HERE = Path(__file__).parent
LISTS = {"vendor": "", "cuda12": "cuda12", "cuda13": "cuda13"}
"""Lists of this folder, and where in the vendor folder each goes."""
PYTHONS = ("310", "311", "312", "313")
"""Ubuntu 22.04 (JetPack 6), Debian 12, Ubuntu 24.04 (JetPack 7), Debian 13."""

MACHINES = {"arm64": "aarch64", "amd64": "x86_64"}
JANUARY_2020_S = 1_577_836_800
GLIBC = ("2_17", "2_24", "2_26", "2_27", "2_28", "2_31", "2_34", "2_35")
"""What Ubuntu 22.04's C library (2.35) can load."""

CUDA_UNUSED = tuple(
    f"{prefix}{name}"
    for prefix in ("", "cy")
    for name in ("runtime", "nvml", "cufile", "cudla", "nvjitlink", "nvfatbin", "nvvm")
)
LEFT_OUT = (
    "onnx/test/*",
    "onnx/bin/*",
    "onnx/backend/*",
    # The extension has the library linked in; this copy is for C programs.
    "onnxruntime/capi/libonnxruntime.so*",
    "onnxruntime/transformers/models/*",
    "onnxruntime/tools/mobile_helpers/*",
    "onnxruntime/tools/qdq_helpers/*",
    "onnxruntime/datasets/*",
    "sympy/*/tests/*",
    "mpmath/tests/*",
    "sympy/benchmarks/*",
    # rich colours Python; of the other languages a few letters are as good as all.
    "pygments/lexers/[a-ce-oq-rt-z]*",
    "av/include/*",
    "_cuda_bindings_redirector*",
    # The names before cuda-bindings 12.6.
    *(f"cuda/{name}.*" for name in ("ccuda", "ccudart", "cnvrtc", "cuda", "cudart", "nvrtc")),
    "cuda/bindings/_test_helpers/*",
    "cuda/bindings/_example_helpers/*",
    # Of NVIDIA's bindings edgetrt calls the driver and the run-time compiler.
    *(
        f"cuda/bindings/{folder}{name}{suffix}"
        for folder in ("", "_bindings/", "_internal/", "_v2/")
        for name in CUDA_UNUSED
        for suffix in (".*", "_ptds.*")
    ),
    "*.pxd",
    "*.pyx",
    "*.pyi",
    "*.h",
    "*.cc",
    "*.cpp",
    "*.hpp",
    "cuda/*.in",
    "cuda/*.json",
    "*.in.proto",
    "*.dist-info/RECORD",
    "*.dist-info/WHEEL",
    "*.dist-info/INSTALLER",
    "*.dist-info/entry_points.txt",
    "*.dist-info/top_level.txt",
    "*.dist-info/zip-safe",
    "*.data/*",
)
"""Tests, sources and what only pip reads, as names in a wheel; `*` goes across folders."""


def pins(name: str) -> list[str]:
    """`name==version` of everything, in the order of the list."""
    lines = (line.split("#")[0].strip() for line in (HERE / f"{name}.in").read_text().splitlines())
    return [line for line in lines if line]


def download(arch: str, python: str, to: Path, requirements: list[str]) -> None:
    """Fetch the wheels for one machine and Python; pip checks the hashes where there are any."""
    platforms = [f"--platform=manylinux_{glibc}_{MACHINES[arch]}" for glibc in GLIBC]
    platforms += [f"--platform=manylinux2014_{MACHINES[arch]}"]
    # cp39 and cp310 for modules of the stable ABI: the same file then serves every Python.
    abis = [f"--abi={abi}" for abi in (f"cp{python}", "abi3", "none")]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", str(to)]
    command += [*platforms, "--implementation=cp", f"--python-version={python}", *abis]
    subprocess.run([*command, *requirements], check=True)


def stable_abi(wheel: Path) -> bool:
    """Whether one file serves all Pythons from some version on."""
    return "-abi3-" in wheel.name


def lock(name: str) -> None:
    """Write the hash of every wheel that some Python on some machine needs."""
    hashes: dict[str, set[str]] = {pin: set() for pin in pins(name)}
    for arch in MACHINES:
        for python in PYTHONS:
            with tempfile.TemporaryDirectory() as folder:
                download(arch, python, Path(folder), pins(name))
                for wheel in Path(folder).glob("*.whl"):
                    if stable_abi(wheel) and python != PYTHONS[0]:
                        continue
                    project, version = wheel.name.split("-")[:2]
                    pin = f"{project.lower().replace('_', '-')}=={version}"
                    hashes[pin].add(hashlib.sha256(wheel.read_bytes()).hexdigest())
    lines = [f"# Written by `scripts/build-deb --lock` from {name}.in."]
    for pin, found in hashes.items():
        lines.append(
            " \\\n".join([pin, *(f"    --hash=sha256:{digest}" for digest in sorted(found))])
        )
    locked(name).write_text("\n".join(lines) + "\n")


def locked(name: str) -> Path:
    """The hashes of a list."""
    return HERE / f"{name}.lock"


def fill(arch: str, folder: Path, sbom: Path) -> None:
    """Unpack every wheel for `arch` into `folder` and write what they are."""
    parts: list[tuple[str, Part]] = []
    for name, place in LISTS.items():
        parts += fill_list(arch, name, folder / place).items()
    sbom.write_text(json.dumps(bill(arch, parts), indent=1, sort_keys=True) + "\n")


def fill_list(arch: str, name: str, folder: Path) -> dict[str, Part]:
    """Unpack every wheel of a list; returns what they are."""
    parts: dict[str, Part] = {}
    for index, python in enumerate(PYTHONS):
        with tempfile.TemporaryDirectory() as downloads:
            wanted = Path(downloads, "wanted.lock")
            # After the first Python the pure and the stable ones are there.
            wanted.write_text(locked(name).read_text() if index == 0 else compiled(name, parts))
            download(arch, python, Path(downloads), ["--require-hashes", "-r", str(wanted)])
            for wheel in sorted(Path(downloads).glob("*.whl")):
                unpack(wheel, folder)
                note(wheel, parts)
    return parts


def compiled(name: str, parts: dict[str, Part]) -> str:
    """The lines of a list's hashes about what has a wheel per Python."""
    wanted = {library for library, part in parts.items() if part.per_python}
    entries = re.split(r"\n(?=\S)", locked(name).read_text())
    return "\n".join(entry for entry in entries if entry.split("==")[0] in wanted)


def unpack(wheel: Path, folder: Path) -> None:
    """Put a wheel's files beside those that are there; a file that differs is refused.

    Their time is made of the wheel's digest: what a device compiled from them stays valid for as long as
    the package brings the same wheel, and no longer.
    """
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    time_s = JANUARY_2020_S + int(digest[:6], 16)
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            if info.is_dir() or left_out(info.filename):
                continue
            target = folder / info.filename
            data = archive.read(info)
            if target.exists() and target.read_bytes() == data:
                continue
            if target.exists():
                if ".dist-info/" in info.filename:
                    continue
                sys.exit(f"vendor: {info.filename} of {wheel.name} differs from another Python's")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            target.chmod(0o644)
            os.utime(target, (time_s, time_s))


def left_out(name: str) -> bool:
    """Whether no device needs a file of a wheel."""
    return any(fnmatch(name, pattern) for pattern in LEFT_OUT)


def note(wheel: Path, parts: dict[str, Part]) -> None:
    """Remember name, version, licence and hash of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        path = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        about = HeaderParser().parsestr(archive.read(path).decode())
    name = re.sub(r"[-_.]+", "-", about["Name"]).lower()
    part = Part(
        version=about["Version"],
        licence=about["License-Expression"] or _licence(about.get_all("Classifier") or []),
        summary=about["Summary"] or "",
        per_python=not stable_abi(wheel) and "-none-any" not in wheel.name,
    )
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    parts.setdefault(name, part).hashes.append(digest)


def _licence(classifiers: list[str]) -> str:
    found = [c.split(" :: ")[-1] for c in classifiers if c.startswith("License ::")]
    return " AND ".join(found) or "see its dist-info"


def bill(arch: str, parts: list[tuple[str, Part]]) -> dict[str, object]:
    """The parts as CycloneDX 1.5; the same parts give the same bytes."""
    parts = sorted(parts, key=lambda named: (named[0], named[1].version))
    seed = json.dumps([(name, asdict(part)) for name, part in parts]) + arch
    components = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{part.version}",
            "purl": f"pkg:pypi/{name}@{part.version}",
            "name": name,
            "version": part.version,
            "description": part.summary,
            "licenses": [{"license": {"name": part.licence}}],
            # One wheel per Python; CycloneDX holds one hash per algorithm and component.
            "properties": [
                {"name": "edgetrt:wheel-sha256", "value": digest} for digest in part.hashes
            ],
        }
        for name, part in parts
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, seed)}",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "edgetrt"}},
        "components": components,
    }


if __name__ == "__main__":
    if sys.argv[1:] == ["lock"]:
        for each in LISTS:
            lock(each)
    elif len(sys.argv) == 5 and sys.argv[1] == "fill" and sys.argv[2] in MACHINES:
        fill(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        sys.exit(__doc__)
