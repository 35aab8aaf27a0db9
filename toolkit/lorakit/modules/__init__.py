"""The modules of LoRA files as the jobs need them: as matrices, as factors, and all of a file on a few threads."""
