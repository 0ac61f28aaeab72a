"""The node's CSI plugin: a Dataset as a volume in pods. See fuse/csi/README.md."""
