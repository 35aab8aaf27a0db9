"""The catalogue: everything that was learnt, in one SQLite database (WAL) with one writer. The truth.

All SQL on its tables is here: `schema` makes them, `writer` and `tables` write (and read what the writer needs),
`tags` what users say, `views` reads names in view, `duplicates` those in sets, `hashes` the identity hashes,
`search` all hashes by their beginning. The JSON files are views of the catalogue. Nothing here decides anything;
`lorad.index.engine` writes, all others read. Not here: the journal of de-duplication, which is a database of its
own (`lorad.dedupe.action.journal`).
"""

from lorad.catalog.hashes import Identified
from lorad.catalog.tables import Answer, HeldInode, Lost, NameRow, Row
from lorad.catalog.writer import Catalog

__all__ = ["Answer", "Catalog", "HeldInode", "Identified", "Lost", "NameRow", "Row"]
