"""This library against PyTorch, side by side in worker processes; `python -m launch.benchmark` runs it."""
