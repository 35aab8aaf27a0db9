"""The catalogue: everything that was learnt, in one SQLite database (WAL) with one writer. The truth.

`schema` has the tables, `catalog` reads and writes for the one writer, `views` reads for everybody else. The JSON
files are views of it. Nothing here decides anything: `lorad.index` writes, `lorad.publish` and `lorad.control`
read.
"""

from lorad.catalog.catalog import Answer, Catalog, HeldInode, Lost, Row
from lorad.catalog.identity import Identified

__all__ = ["Answer", "Catalog", "HeldInode", "Identified", "Lost", "Row"]
