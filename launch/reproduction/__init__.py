"""The parts of `launch.reproduce`: how much work, which rows, and what is written of them."""
