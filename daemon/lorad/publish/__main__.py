"""The publisher process: renders the newest generation whenever the core says so."""

from __future__ import annotations

import sqlite3
import time

from lorad.pipeline.child import arguments
from lorad.pipeline.protocol import Publish, Published
from lorad.publish.snapshot import connect, read_snapshot
from lorad.publish.views import publish


def main() -> None:
    line, (state_dir,) = arguments()
    for message in line.messages():
        if not isinstance(message, Publish):
            continue
        started = time.perf_counter()
        try:
            connection = connect(state_dir)
            try:
                snapshot = read_snapshot(connection)
            finally:
                connection.close()
            publish(snapshot, state_dir)
        except (OSError, sqlite3.Error) as error:
            line.send(Published(-1, time.perf_counter() - started, f"the JSON files cannot be written: {error}"))
        else:
            line.send(Published(snapshot.generation, time.perf_counter() - started))
    line.leave()


if __name__ == "__main__":
    main()
