"""Is the temperature boundary a loss of stability, teacher by teacher?"""
