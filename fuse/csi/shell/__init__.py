"""What the plugin does: gRPC, mounts, processes, records. Decides nothing."""
