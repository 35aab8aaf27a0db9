"""lorad as a service of systemd: its files filled in for this machine, put in place, and removed.

`machine` says what is there (the program, the folders and their owner), `files` renders the templates, `place`
writes and removes files and calls systemctl. The templates are those of `systemd/` at the top of the repository:
the link of that name leads an editable checkout there, and takes them into the wheel. What the service does once
it runs stands in the daemon.
"""
