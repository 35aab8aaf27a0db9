"""One way to run a helper process, and one to run a helper thread.

`worker` is the process that runs jobs, from the inside, and `process` from the outside; `thread` is a thread that
takes requests and outlives their errors. Loaders and the hasher are started by `lorad.pipeline`, which has slabs
to share with them. What a job is stands in `loracore.jobs`, which jobs are queued in `lorad.jobs`.
"""
