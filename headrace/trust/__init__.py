"""Making what the parts trust each other by: an authority, identities, keys of tokens."""
