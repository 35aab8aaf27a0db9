"""The modules of LoRA files as the jobs need them: as matrices, as factors, and all of a file on a few threads.

`matrices` and `factors` are ΔW in either form, `survey` goes through a file, `inputs` and `parts` open what a job
was given: files, or the folders of a pipeline. Which layers are a module, and its formula, is
`loracore.adapter`'s; the algebra is `lorakit.lowrank`'s.
"""
