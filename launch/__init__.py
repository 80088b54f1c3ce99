"""Entry points, run as `python -m launch.NAME`: absl flags in, one library call out."""
