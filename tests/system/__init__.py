"""The service under a real systemd: `make system-test` boots one in a container. `make test` skips all of it."""
