"""Is the jammed phase a phase, or slow dynamics?"""
