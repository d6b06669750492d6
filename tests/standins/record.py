"""Record which attributes a release of TensorRT's Python bindings has.

    python tests/standins/record.py BINDINGS.so OUT.json

Run it with a Python of the version that the bindings were built for. The bindings load without
TensorRT itself when libraries of the names they want are there: an empty `libnvinfer.so.10` (and so
on) made with `gcc -shared` that defines the dozen `create…_INTERNAL`, `getPluginRegistry`,
`initLibNvInferPlugins` functions that `nm -D --undefined-only` shows, on LD_LIBRARY_PATH. Nothing of
it is ever called: the classes and their attributes exist as soon as the module is imported.

Recorded so: tensorrt-bindings 8.6.1, tensorrt-cu12-bindings 10.3.0 and 10.13.3.9,
tensorrt-cu13-bindings 11.4.0.106, tensorrt-rtx-cu13-bindings 1.7.1.116. `stubs-10.13.0.json` holds the
same classes as the type stubs of tensorrt-stubs 10.13.0.35.1 declare them.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

CLASSES = [
    "BuilderFlag",
    "NetworkDefinitionCreationFlag",
    "IBuilderConfig",
    "Builder",
    "OnnxParser",
    "OnnxParserFlag",
    "ParserError",
    "ErrorCode",
    "INetworkDefinition",
    "ILayer",
    "ITensor",
    "IProgressMonitor",
    "MemoryPoolType",
    "IOptimizationProfile",
    "ILogger",
    "Runtime",
    "ICudaEngine",
    "EngineInspector",
    "ITimingCache",
    "ProfilingVerbosity",
    "DeviceType",
    "LayerInformationFormat",
    "IHostMemory",
    "IInt8EntropyCalibrator2",
    "DataType",
    "IExecutionContext",
    "TensorIOMode",
    "LayerType",
]


def public(thing: object) -> list[str]:
    """Sorted names without underscore."""
    return sorted(name for name in dir(thing) if not name.startswith("_"))


def main(library: str, out: str) -> None:
    """Import the bindings and write what they have."""
    name = Path(library).name.partition(".")[0]
    spec = importlib.util.spec_from_file_location(name, library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    surface = {"module": public(module)}
    surface |= {kind: public(getattr(module, kind)) for kind in CLASSES if hasattr(module, kind)}
    rows = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in surface.items()]
    Path(out).write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:3])
