"""What LoRA people do all day with a file: understand, change, train. No daemon is needed for any of it.

Each function here is also a job (`loracore.jobs`), which the daemon runs beside the data.
"""
