"""This library against PyTorch, side by side in processes; `python -m launch.benchmark` runs it."""
