"""Networks before they are engines, pure: inspect, place, rewrite, precision."""
