"""What each job does, a folder or a file a job. No job knows another; what several need lies beside this."""
