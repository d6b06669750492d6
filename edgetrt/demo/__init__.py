"""The demo: a real video in, detections out over MQTT, everything started and ended here."""
