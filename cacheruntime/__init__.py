"""The cache runtime: workers that keep verified blocks, and the controller of Datasets, loads and pools."""
