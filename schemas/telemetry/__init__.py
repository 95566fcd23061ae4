"""What a process tells about itself: logs, metrics, health and traces, the same for every service.

* `logs.py`: lines for people, or JSON. `quiet.py`: librdkafka's lines, at a rate that people can read.
* `endpoint.py`: `/metrics`, `/health` and `/ready` on one port. `vitals.py`: what the last two are made of.
* `probe.py`: asks `/ready`, for a container's health check.
* `latencies.py`: histograms that are filled a batch at a time.
* `traces.py`: OpenTelemetry spans, where they are switched on.
"""
