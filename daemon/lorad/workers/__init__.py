"""One way to run a helper thread, and one to run a helper process."""
