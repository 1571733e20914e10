"""Questions that the package was not made for, each in a file that touches nothing of it: `python -m experiments.extensions.NAME`."""
