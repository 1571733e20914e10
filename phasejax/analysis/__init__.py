"""What a run shows: functions of its Dataset that return DataArrays and numbers. No JAX, no files, no figures."""
