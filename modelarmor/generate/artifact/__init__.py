"""What lies where the model is: its files, their bytes' digest, and what can load them.

Reads and hashes; runs nothing, imports nothing of the model, and needs no library of it.
"""

from modelarmor.generate.artifact.inspection import inspect
from modelarmor.generate.artifact.source import ArtifactError, Model, open_model
from modelarmor.generate.artifact.tree import Progress

__all__ = ["ArtifactError", "Model", "Progress", "inspect", "open_model"]
