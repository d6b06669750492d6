"""The composition root: the only place that names concrete adapters.

Everything here opens, joins and starts; nothing decides. Adapters are imported when they are opened.
"""

from __future__ import annotations

from edgetrt.app.networks import (
    active,
    backends,
    open_deployed,
    open_network,
    pick_backend,
    tensorrt_backend,
)
from edgetrt.app.pipelines import (
    join,
    open_source,
    parts_named,
    supervisor,
    uses_stdout,
    whole_sink,
)
from edgetrt.app.places import RUNTIME_SOCKET, cache_dir, run_dir, state_dir
from edgetrt.app.processes import broker_of, demands, job, run_agent, run_runtime, stop_on_signals
from edgetrt.app.remembered import device_config, written
from edgetrt.app.serving import Serving, current, parts, updates_dir, wanted

__all__ = [
    "RUNTIME_SOCKET",
    "Serving",
    "active",
    "backends",
    "broker_of",
    "cache_dir",
    "current",
    "demands",
    "device_config",
    "job",
    "join",
    "open_deployed",
    "open_network",
    "open_source",
    "parts",
    "parts_named",
    "pick_backend",
    "run_agent",
    "run_dir",
    "run_runtime",
    "state_dir",
    "stop_on_signals",
    "supervisor",
    "tensorrt_backend",
    "updates_dir",
    "uses_stdout",
    "wanted",
    "whole_sink",
    "written",
]
