"""The thin client. It knows `loracore`, and the daemon only as a process to talk to."""
