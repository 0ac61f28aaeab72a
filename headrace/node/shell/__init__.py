"""What the process node does: processes, files, mounts, sockets and API calls."""
