"""The Kubernetes enforcer: kernels and models in pods that KubeArmor confines."""
