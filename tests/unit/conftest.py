"""How the unit tests run."""

import os

from hypothesis import HealthCheck, settings

# A build that others wait for tries the same examples each time; at a developer's they are new ones.
# Examples take milliseconds, yet on a machine that is busy with the servers of other tests any of them may stall:
# time says nothing about what is tested here, and the runner's own time-out stops what hangs.
settings.register_profile(
    "daybook", deadline=None, derandomize=bool(os.environ.get("CI")), suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("daybook")
