"""The control plane of a device: MQTT session, health, what is desired and what is reported."""
