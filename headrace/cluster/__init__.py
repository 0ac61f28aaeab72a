"""A local cluster made of plain processes on loopback.

Owns starting, finding and stopping them, their certificates, ports and state
folder. Does not know what the parts do: it knows their command lines."""
