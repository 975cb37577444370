"""ModelArmor for MLflow: no model is promoted whose policy nobody has reviewed.

`store` is MLflow's own registry store with a gate in front of every promotion; `worker` generates
a policy for each version that is registered; `statements` are what reviewers sign, `records` is
the chain that keeps it, `review` decides what it is worth. Nothing here imports MLflow before it
is needed, so the command line can name these commands on a machine without it.
"""
