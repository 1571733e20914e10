"""Which boundary of the plane is general, and which belongs to saturating nodes?"""
