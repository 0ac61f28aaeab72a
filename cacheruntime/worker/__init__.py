"""One cache worker a node: the only code of this part that touches block files and reader sockets."""
