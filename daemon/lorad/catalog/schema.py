"""The catalogue's tables, and how a catalogue of an earlier version becomes one of this version."""

from __future__ import annotations

import sqlite3

from loracore.errors import StateError

#: One script for each version; a catalogue at version n gets the scripts after the n-th, in order.
MIGRATIONS = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
    -- `encoded`: zlib of the canonical encoding; `sequence`: MessagePack of the group's questions.
    CREATE TABLE layouts (
        id INTEGER PRIMARY KEY, signature BLOB NOT NULL UNIQUE, encoded BLOB NOT NULL,
        sequence BLOB, exhausted INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE arrangements (id INTEGER PRIMARY KEY, signature BLOB NOT NULL UNIQUE, encoded BLOB NOT NULL);
    -- One inode in one state, or (`passed_over`) one name that is not read.
    -- `read_ns`: when it was first read. `residue`: of all bytes outside layers.
    CREATE TABLE files (
        id INTEGER PRIMARY KEY,
        dev INTEGER NOT NULL, ino INTEGER NOT NULL, size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, read_ns INTEGER NOT NULL,
        status TEXT NOT NULL, layout INTEGER, arrangement INTEGER, base INTEGER, format TEXT,
        residue BLOB, signature BLOB, load_seconds REAL NOT NULL, error TEXT, deaths INTEGER NOT NULL,
        passed_over INTEGER NOT NULL
    );
    CREATE TABLE names (path BLOB PRIMARY KEY, file INTEGER NOT NULL, active INTEGER NOT NULL) WITHOUT ROWID;
    -- `digests`: 32 bytes a piece, in the question's order; `key` stands for them in the state machine.
    CREATE TABLE answers (
        file INTEGER NOT NULL, number INTEGER NOT NULL, key BLOB NOT NULL, digests BLOB NOT NULL,
        PRIMARY KEY (file, number)
    );
    """,
    """
    -- Of all bytes of a file, see lorad.catalog.identity; NULL where it has none. `error` says why it has none at
    -- all, `deaths` how many processes died of it.
    CREATE TABLE hashes (
        file INTEGER PRIMARY KEY, sha256 BLOB, autov1 BLOB, model BLOB, legacy BLOB, blake3 BLOB, crc32 BLOB,
        error TEXT, deaths INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX hashes_sha256 ON hashes (sha256);
    CREATE INDEX hashes_autov1 ON hashes (autov1);
    CREATE INDEX hashes_model ON hashes (model);
    CREATE INDEX hashes_legacy ON hashes (legacy);
    CREATE INDEX hashes_blake3 ON hashes (blake3);
    CREATE INDEX hashes_crc32 ON hashes (crc32);
    CREATE INDEX names_file ON names (file);
    CREATE INDEX files_layout ON files (layout);
    CREATE INDEX files_signature ON files (signature);
    """,
    """
    -- Names of duplicates that the policy is still to be asked about, and the inode of each when it was noted.
    CREATE TABLE newcomers (
        path BLOB PRIMARY KEY, ino INTEGER NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL
    ) WITHOUT ROWID;
    """,
    """
    -- Names that the file had when it was no news any more, see lorad.index.records, NUL between; mostly NULL.
    ALTER TABLE files ADD COLUMN before BLOB;
    -- Files that have no name any more and may come back under another one: their names, and when they went.
    CREATE TABLE departed (
        dev INTEGER NOT NULL, ino INTEGER NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
        names BLOB NOT NULL, gone_at REAL NOT NULL, PRIMARY KEY (dev, ino)
    ) WITHOUT ROWID;
    """,
    """
    -- Where the blocks of a duplicate lay when they were last looked at, see lorad.blocks; NULL where that
    -- cannot be told.
    ALTER TABLE files ADD COLUMN extents BLOB;
    -- That of the weights, of those that were duplicates.
    ALTER TABLE departed ADD COLUMN signature BLOB;
    -- Names that led to a duplicate of these weights, and when that ended.
    CREATE TABLE held (path BLOB PRIMARY KEY, signature BLOB NOT NULL, gone_at REAL NOT NULL) WITHOUT ROWID;
    """,
    """
    -- What the header says that changes what the tensors do, see loracore.adapter.function: a digest, NULL for
    -- nothing, empty where the header was read before this was kept.
    ALTER TABLE files ADD COLUMN function BLOB;
    UPDATE files SET function = x'' WHERE layout IS NOT NULL;
    -- The same of the adapter_config.json beside this name; NULL for none, or nothing that counts.
    ALTER TABLE names ADD COLUMN config BLOB;
    -- The JSON files say more than they did.
    UPDATE meta SET value = 0 WHERE key = 'complete';
    """,
    """
    -- Which names and which inodes held which weights: each that does not lead any more to what it led to, the
    -- newest with the highest `seq`. `layout` and `weights` are signatures, empty where they are not known.
    DROP TABLE held;
    CREATE TABLE held_names (
        seq INTEGER PRIMARY KEY, path BLOB NOT NULL, layout BLOB NOT NULL, weights BLOB NOT NULL,
        UNIQUE (path, layout, weights)
    );
    CREATE TABLE held_inodes (
        seq INTEGER PRIMARY KEY, dev INTEGER NOT NULL, ino INTEGER NOT NULL, born INTEGER,
        size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, layout BLOB NOT NULL, weights BLOB NOT NULL,
        UNIQUE (ino, dev, layout, weights)
    );
    -- `weights`: over all layers, known once it was a duplicate. `was`: layout and weights that its inode or its
    -- name led to before, until it is told apart. `fresh`: 1 where it was met as new, 2 where it was told apart
    -- since. A name that is hidden has the `active` 2.
    ALTER TABLE files ADD COLUMN weights BLOB;
    ALTER TABLE files ADD COLUMN was BLOB;
    ALTER TABLE files ADD COLUMN fresh INTEGER NOT NULL DEFAULT 0;
    -- When the inode was made, in nanoseconds; NULL where that is not known. So with `held_inodes`.
    ALTER TABLE files ADD COLUMN born INTEGER;
    UPDATE files SET weights = signature WHERE status = 'duplicate';
    ALTER TABLE files DROP COLUMN before;
    CREATE INDEX files_weights ON files (weights) WHERE weights IS NOT NULL;
    DROP TABLE departed;
    DROP TABLE newcomers;
    DELETE FROM meta WHERE key IN ('known_since', 'acts');
    """,
    """
    -- How much its header says beside its layers, in characters; NULL where it was read before this was kept.
    ALTER TABLE files ADD COLUMN metadata INTEGER;
    """,
    """
    -- What the file is, by its header: see loracore.facts. `config`: a digest of the adapter_config.json that it
    -- goes by, NULL for none.
    CREATE TABLE facts (
        file INTEGER PRIMARY KEY, version INTEGER NOT NULL, encoded BLOB NOT NULL, config BLOB
    );
    -- A row for each name in view, with all that `list` asks for; texts are folded, lists between newlines. `stem`
    -- is what the model is called, `run` stands for the training that it came from. All of it follows from names,
    -- files and facts, see lorad.catalog.facts.
    CREATE TABLE listing (
        id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, file INTEGER NOT NULL,
        folded TEXT NOT NULL, name TEXT NOT NULL, stem TEXT NOT NULL, run TEXT,
        size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, state TEXT NOT NULL, format TEXT,
        family TEXT, base TEXT, algorithm TEXT, convention TEXT, rank INTEGER, min_rank INTEGER, alpha REAL,
        modules INTEGER, component TEXT, dtype TEXT, sound INTEGER, problem TEXT, title TEXT, author TEXT,
        trainer TEXT, triggers TEXT, epoch INTEGER, steps INTEGER, date TEXT, licence TEXT, output TEXT,
        session TEXT, model_hash TEXT
    );
    CREATE INDEX listing_file ON listing (file);
    CREATE INDEX listing_stem ON listing (stem);
    CREATE INDEX listing_run ON listing (run) WHERE run IS NOT NULL;
    -- What words alone are looked for in, by the row of `listing`: name, title and trigger words, and tags; and an
    -- index of it for any part of a word.
    CREATE TABLE texts (
        id INTEGER PRIMARY KEY, text TEXT NOT NULL, tags TEXT NOT NULL
    );
    CREATE VIRTUAL TABLE words USING fts5(
        text, tags, content = 'texts', content_rowid = 'id', tokenize = 'trigram'
    );
    """,
    """
    -- What users say of a file, see lorad.catalog.tags; `model` is that of their database, 0 where it is still
    -- to be seen whether they say anything.
    CREATE TABLE tagged (file INTEGER PRIMARY KEY, model INTEGER NOT NULL, said BLOB NOT NULL);
    ALTER TABLE listing ADD COLUMN own TEXT;
    ALTER TABLE listing ADD COLUMN note TEXT;
    -- All that is short, so that going through all rows reads half as much. It begins with what has few values:
    -- in this order they are counted without sorting. See lorad.catalog.conditions.
    CREATE INDEX listing_short ON listing (
        family, base, algorithm, rank, trainer, convention, format, licence, dtype, state, author, size, mtime_ns,
        min_rank, alpha, modules, component, sound, title, epoch, steps, date, path
    );
    -- What rows are mostly sorted by, for the first of all or of many.
    CREATE INDEX listing_size ON listing (size);
    CREATE INDEX listing_mtime_ns ON listing (mtime_ns);
    CREATE INDEX listing_title ON listing (title);
    """,
)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables to this version. Raises StateError for a catalogue that a later lorad wrote."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise StateError(
            f"the catalogue is of version {version}, this lorad knows {len(MIGRATIONS)}; "
            "install the newer lorad again, or give another --state-dir"
        )
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")
