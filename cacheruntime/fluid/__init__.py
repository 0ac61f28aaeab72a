"""Our cache as a runtime of Fluid's controllers: entry points that its CacheRuntimeClass names (README.md)."""
