"""Jobs in the daemon: a queue, a worker process for each job while it runs, and results that are kept a while.

What a job does is not here: implementations are entry points (`loracore.jobs.job`). `board` remembers the jobs and
knows no processes, `results` keeps what came of them, `service` brings them together with `lorad.workers` and
answers clients. docs/decisions/0015-jobs.md says why it is so.
"""
