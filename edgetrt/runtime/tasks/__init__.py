"""What a network's output means: one module per task."""
