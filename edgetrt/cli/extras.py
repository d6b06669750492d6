"""What a command needs and this installation has not: a missing library becomes the words to install it."""

from __future__ import annotations

from pathlib import Path

from edgetrt.errors import ConfigError

EXTRAS = {
    "tuf": "update",
    "securesystemslib": "update",
    "cryptography": "update",
    "openvino": "openvino",
    "cv2": "opencv",
}
"""By library: the extra that brings it."""
_ALWAYS = ("numpy", "PIL", "yaml", "paho", "onnx", "onnxruntime", "av")
"""What every installation has; one without is broken."""


def explained(error: ModuleNotFoundError) -> ConfigError | None:
    """The error in a person's words; None = it is no library that can be installed."""
    name = (error.name or "").partition(".")[0]
    root = Path(__file__).parents[2]
    if name in EXTRAS:
        extra = EXTRAS[name]
        hint = f"pip install 'edgetrt[{extra}]'"
        if (root / "pyproject.toml").exists():
            hint = f"In this checkout: scripts/setup {extra}; elsewhere: {hint}"
        return ConfigError(
            f"this needs {name}, of the extra `{extra}`, which is not installed", hint
        )
    if name in _ALWAYS:
        return ConfigError(f"this needs {name}, which is not installed", "Install edgetrt again.")
    return None
