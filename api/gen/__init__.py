"""Generated from api/proto by `make generate`; never edited."""
