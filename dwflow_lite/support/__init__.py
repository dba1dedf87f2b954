"""What every room uses and none teaches: checks, files, checkpoints, jobs, progress, devices."""
