"""The catalogue: everything that was learnt, in one SQLite database (WAL) with one writer. The truth.

The JSON files are views of it. Nothing here decides anything; `lorad.index.engine` writes, `lorad.publish` reads.
"""

from lorad.catalog.catalog import Answer, Catalog, HeldInode, Lost, Row
from lorad.catalog.identity import Identified

__all__ = ["Answer", "Catalog", "HeldInode", "Identified", "Lost", "Row"]
