"""The advice of pilots beside whole trainings, on networks of many kinds."""
