"""Rollout plans as manifests for clusters: Argo Rollouts, Flagger, KServe."""
