"""What a run leaves on disk, and nothing else: every module imports only those before it.

`durable` (whole, synced, locked), `schema` (how a file looks), `netcdf` (records), `layout` (a folder's names), `state`
(checkpoints), `reading` (opening), `folder` (a run being written), `slabs` (a run that several processes share).
"""
