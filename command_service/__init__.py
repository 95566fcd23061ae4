"""The write side: commands in, events and replies out, in one Kafka transaction a batch."""
