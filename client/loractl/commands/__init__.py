"""The commands of `loractl`, a module for each family. What they ask and print lives in `loractl` itself.

These modules import click and little else: each start of `loractl` waits for them.
"""
