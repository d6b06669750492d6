"""Put neural networks onto NVIDIA Jetson devices and keep them running there."""

import os

__version__ = "0.1.0"

# ONNX Runtime's wheels from 1.29 on report their use to Microsoft unless this is set before they are
# loaded (its docs/Privacy.md). A device tells its owner's broker and nobody else; whoever sets the
# variable to 0 has decided otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
