"""What a run leaves on disk, and nothing else: every module imports only those before it, and none of them jax.

`durable` (whole, synced, locked), `schema` (how a file looks), `state` (checkpoints), `netcdf` (records), `layout` (names of
files), `reading` (opening), `folder` (a run being written), `slabs` (a run that several processes share).
"""
