"""One way to run a helper thread, one to run a helper process, and one back-off.

`thread` runs short jobs of the daemon in turn. `process` starts a helper program and speaks with it; `worker` is
the program that runs jobs, and `job` the daemon's end of it. What is run belongs to `lorad.jobs`, `lorad.hashes`
and `lorad.dedupe`; the processes that share memory, the publisher among them, belong to `lorad.pipeline`.
"""
