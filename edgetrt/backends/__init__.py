"""What runs networks: one module per library, each behind the ports `Backend` and `Session`."""
