"""The discrete-event engine: virtual time, nodes, links, caches and jobs around the real scheduler core."""
