"""A child ends with its core, whatever it is doing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from lorad.pipeline.arena import Arena

#: A child whose first thread hangs as in a driver's wait: deaf, while other threads go on.
HANGING = """
import ctypes
from lorad.pipeline.endpoint import take_place
take_place()
print("hangs", flush=True)
libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
while True:
    libc.pthread_mutex_lock(mutex)
"""


def test_a_child_that_hangs_ends_after_its_core() -> None:
    """A GPU that does not answer keeps no process of a daemon that was killed."""
    arena = Arena.create(4096, 1)
    read, write = os.pipe2(os.O_CLOEXEC)
    ours, theirs = socket.socketpair()
    inherited = (theirs.fileno(), read, arena.fd)
    command = [sys.executable, "-c", HANGING, *map(str, (*inherited, 4096, 1, 0))]
    with ours, theirs, subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=inherited) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"hangs\n"
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(1.5)
            assert arena.pulse(0).beats
            os.close(write)
            assert child.wait(10) == 0
        finally:
            child.kill()
    os.close(read)
    os.close(arena.fd)
