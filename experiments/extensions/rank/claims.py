"""What is said."""

from phasejax.claims import Claim, Measure, at_start


def _samples(run):
    hottest = run.isel(temperature=[-1], sigma_w=[-1]).effective_rank
    return (hottest / hottest.sel(step=0, drop=True)).where(run.diverged_step < 0).to_dataset(name="share")


collapse = Claim(
    key="collapse",
    statement="Heat makes a layer narrower: at the highest T and the smallest sigma_W its effective rank falls below half",
    measures=(
        Measure("rank / rank at the start", _samples, lambda x: x["share"].mean(["temperature", "sigma_w"]), high=0.5),
    ),
    remark="the interval was set before the first run",
    null=at_start,
)
