"""CUDA: the device port over PyCUDA and over cuda-python, graphs, kernels."""
