"""What several jobs need to hash a file: one read for several consumers, and the header of kohya's own hash.

`shared_read` lets several consumers see one read, `legacy` is kohya's `sshs_legacy_hash`. Which hashes there are
is said by `loracore.jobs.hashes`; digests of layers, which find duplicates, are the daemon's.
"""
