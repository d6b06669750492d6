"""CUDA: the device port over cuda-python and over PyCUDA, graphs, and the project's own kernels."""
