"""The control protocol, over real sockets."""
