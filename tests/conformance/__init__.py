"""KubeArmor's own test cases, run for real in the sandbox."""
