"""Headrace datasets in Python without a mount.

    fsspec.open("headrace://NAMESPACE/DATASET/PATH")   filesystem.py
    FileDataset(url)                                   dataset.py: for DataLoader
    checkpoint.save(directory, step, files)            checkpoint.py, and `latest`

Only fsspec is needed. The node's cache worker is reached by its socket: $HEADRACE_SOCKET.
"""

from headrace_sdk import checkpoint
from headrace_sdk.dataset import FileDataset
from headrace_sdk.files import File
from headrace_sdk.filesystem import HeadraceFileSystem

__all__ = ["File", "FileDataset", "HeadraceFileSystem", "checkpoint"]
