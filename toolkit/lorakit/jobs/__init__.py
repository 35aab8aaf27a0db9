"""What each job does, a folder or a file a job; `job` (or the file itself) has its `run` and its `JOB`.

No job imports another. What several need lies beside this package: `modules`, `lowrank`, `statistics`,
`difference`, `models`, `output`. Parameters and results are in `loracore.jobs`, pictures of one file in
`lorakit.plots`.
"""
