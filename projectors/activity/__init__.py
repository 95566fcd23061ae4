"""The `activity` read model: how much moves, minute by minute, and who withdraws in a hurry. A Faust application.

Analytics, which nothing about money depends on: events may be delivered again, and what they come to is the same.

* `volumes.py`, `velocity.py`: what an event does to a window and to an account. Pure.
* `app.py`: the tables and the agent that feeds them. `transport.py`: what Faust's Kafka client has to do differently.
* `web.py`: the tables over HTTP. `program.py`: wires all of it.
"""
