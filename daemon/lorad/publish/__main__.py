"""The publisher process: renders the newest generation whenever the core says so."""

from __future__ import annotations

import gc
import sqlite3
import time
import traceback

from loracore.causes import explained
from loracore.paths import shown
from lorad.pipeline.endpoint import take_place
from lorad.pipeline.protocol import Publish, Published
from lorad.publish.publisher import Publisher


def main() -> None:
    place = take_place()
    line, (state_dir,) = place.line, place.arguments
    publisher = Publisher(state_dir)
    # Looking for cycles in a large model, where there are none, takes longer than rendering a change.
    gc.disable()
    line.ready()
    for message in line.messages():
        if not isinstance(message, Publish):
            continue
        started = time.perf_counter()
        try:
            generation = publisher.publish(message)
        except (OSError, sqlite3.Error) as error:
            why = f"{shown(state_dir)}: the JSON files cannot be written: {explained(error, state_dir)}"
            line.send(Published(-1, time.perf_counter() - started, why))
        except Exception:
            # To die of it would only have it happen again.
            traceback.print_exc()
            why = f"{shown(state_dir)}: the JSON files cannot be written: a mistake in lorad, see its log"
            line.send(Published(-1, time.perf_counter() - started, why))
        else:
            line.send(Published(generation, time.perf_counter() - started))
    line.leave()


if __name__ == "__main__":
    main()
