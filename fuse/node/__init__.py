"""The daemon of one mount: wiring, mount table, kernel tunables."""
