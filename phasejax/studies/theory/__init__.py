"""Levels beside their equation of motion: where the paper's holds, and where it does not."""
