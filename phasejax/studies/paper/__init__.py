"""The paper: its experiment at three lengths, its nine figures and those beside them, its statements, `full_length.nc`."""
