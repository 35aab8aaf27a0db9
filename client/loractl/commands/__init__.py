"""The commands of `loractl`, a module for each family: options, requests, and the form in which it is printed.

These modules import click and little else, as each start of `loractl` waits for them. How a request travels is in
`loractl.client`, how an answer is shown in `loractl.view`, what a job computes in `lorakit`.
"""
