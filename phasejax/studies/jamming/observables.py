"""What the study keeps beside the package's observables."""

import phasejax as pj

KEPT = 32
"""Test inputs whose features are kept, the first ones."""

kept_features = pj.Observable(
    "kept_features",
    lambda student, task: student.features[:KEPT],
    "features on the first test inputs",
    ("kept", "hidden"),
    needs=("hidden",),
)
