"""Other systems' objects as ours: KubeDL's and Kubeflow's jobs, Fluid's datasets, loads and runtimes. Pure."""
