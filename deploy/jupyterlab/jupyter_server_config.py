"""Kernels of this server run in pods; docs/kubernetes.md has every setting."""

c = get_config()  # noqa: F821 - Jupyter gives it to its configuration

c.ModelArmor.enforcer = "kubernetes"
c.ModelArmor.allowed_profiles = ["notebook", "untrusted-model"]
# strict mode: without it `python3`, Jupyter's default, runs in the server's pod, with its account
c.ServerApp.kernel_spec_manager_class = "modelarmor_jupyter.specs.StrictKernelSpecManager"
c.KernelPods.server_name = "jupyterlab"
c.KernelPods.server_pods = {"app.kubernetes.io/name": "jupyterlab"}
c.KernelPods.images = {
    "notebook": "quay.io/jupyter/scipy-notebook",
    "untrusted-model": "quay.io/jupyter/pytorch-notebook",
}
# what `readlink -f /opt/conda/bin/python` says in these images
c.KernelPods.interpreters = {"untrusted-model": "/opt/conda/bin/python3.13"}
c.KernelPods.resources = {"notebook": {"requests": {"cpu": "500m", "memory": "1Gi"}}}
c.KernelPods.claim = "notebooks"
c.KernelPods.relay = "kubearmor.kubearmor.svc:32767"
