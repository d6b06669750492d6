"""What board this is, read from its own files."""
