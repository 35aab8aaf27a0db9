"""One pass over folders and no more: the private daemon that `loractl scan` starts.

It runs the same engine as the service, without a watch, a control socket or any action, and writes reports to a
pipe. What is printed of them is in `loractl.scan`.
"""
