"""Manifests that run an endpoint in a Kubernetes cluster.

endpoint    the endpoint and its deployments, with the rules that they must follow: read this first
workload    pods: Deployment, HorizontalPodAutoscaler, PodDisruptionBudget
network     addresses: Service, NetworkPolicy, HTTPRoute or Ingress
kserve      the same endpoint as an InferenceService
render      the files
"""
