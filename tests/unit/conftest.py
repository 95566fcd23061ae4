"""How the unit tests run."""

from hypothesis import HealthCheck, settings

# Examples take milliseconds, yet on a machine that is busy with the servers of other tests any of them may stall:
# time says nothing about what is tested here, and the runner's own time-out stops what hangs.
settings.register_profile("daybook", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("daybook")
