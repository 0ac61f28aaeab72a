"""The metadata service: what files a dataset has, who holds which blocks, which checkpoints are complete.

`python -m metadata` runs it; README.md tells the flow.
"""
