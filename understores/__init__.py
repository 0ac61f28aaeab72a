"""Under stores: where a dataset's bytes come from. One small interface over S3 and POSIX.

Owns listing, reading and writing whole objects. Does not cache, does not know datasets or snapshots.
Import `open_store` from `understores.registry`.
"""
