"""The attempts. They are copied into the range and run there, so they import nothing of ours."""
