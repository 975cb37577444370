"""What happened: alerts with KubeArmor's own field names, kept in sequence-numbered records."""
