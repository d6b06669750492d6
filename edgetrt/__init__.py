"""Put neural networks onto NVIDIA Jetson devices and keep them running there."""

__version__ = "0.1.0"
