"""What the plugin decides, without I/O: ids, paths, the mount table, what to do at a target."""
