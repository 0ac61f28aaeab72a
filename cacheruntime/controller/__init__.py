"""The cache controller: Dataset, DataLoad, CacheRuntime and NodeCache objects against metadata and workers."""
