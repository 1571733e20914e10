"""Questions the package was not made for, a file each that touches nothing of it: `python -m experiments.extensions.NAME`."""
