"""One way to run a helper process, and one to run a helper thread.

`worker` is the process that runs jobs, from the inside, and `process` from the outside; `thread` is a thread that
does one thing at a time, with a short queue before it. Loaders and the hasher are started by `lorad.pipeline`, as
they share slabs with it. What a job is stands in `loracore.jobs`, which jobs are queued in `lorad.jobs`.
"""
