"""What runs in the confined server process, as modules of their own."""
