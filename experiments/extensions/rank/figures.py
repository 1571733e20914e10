"""What is drawn."""

import phasejax as pj


@pj.figure(needs=["effective_rank"], caption="Effective rank of the trained layer at the end, of 16")
def rank_map(run):
    """The plane, coloured by the effective rank."""
    return pj.plane(run, "effective_rank")
