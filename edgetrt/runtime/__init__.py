"""The data plane: the loop, preprocessing, tasks, timing, supervision."""
