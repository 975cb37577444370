"""What a policy says: load, validate, dump, lint, decide and compare KubeArmor policies."""
