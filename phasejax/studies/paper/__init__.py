"""The paper: its own length, `full_length.nc`."""
