"""Keeps the JSON files up with the catalogue, one request after the other."""

from __future__ import annotations

from collections.abc import Collection

from lorad.catalog.views import Snapshot, connect, read_snapshot
from lorad.pipeline.protocol import Publish
from lorad.publish.model import Model
from lorad.publish.render import render
from lorad.publish.replace import replace_together


class Publisher:
    """The views of the catalogue in `state_dir`, and the model they were rendered from."""

    def __init__(self, state_dir: str) -> None:
        self._state_dir = state_dir
        self._model: Model | None = None

    def publish(self, asked: Publish) -> int:
        """Bring the files up to the newest generation; the generation that they are of now.

        That is an earlier one than the one asked for if the catalogue went on before it could be read: other
        names changed with that, which the next request tells. Raises OSError or sqlite3.Error; then, and at
        first, all is read and rendered anew.
        """
        model = self._model if asked.touched is not None else None
        # Until all is well; and no two models at a time, they are large.
        self._model = None
        if model is None or asked.touched is None:
            model = Model()
            model.update(self._read(None), ())
        else:
            snapshot = self._read(asked.touched)
            if snapshot.generation != asked.generation:
                self._model = model
                return model.generation
            model.update(snapshot, asked.touched)
        replace_together(self._state_dir, render(model))
        self._model = model
        return model.generation

    def _read(self, paths: Collection[bytes] | None) -> Snapshot:
        connection = connect(self._state_dir)
        try:
            return read_snapshot(connection, paths)
        finally:
            connection.close()
