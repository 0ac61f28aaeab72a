"""A thin, fast Kubernetes client shell: list+watch, bind, patch, lease, events.

Owns how Headrace talks to the API server. Does not decide anything about objects:
the parts' cores do. See kube/README.md.
"""
