"""Questions the package was not made for, a file each, touching nothing of it: `python -m experiments.extensions.NAME`."""
