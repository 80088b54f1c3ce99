"""Flags of all commands as data, and the configs that they make."""
