"""Where the namespace is kept: one small transactional interface, one module a database."""
