"""Ways to ask a replica: the Open Inference Protocol v2 and MLflow's scoring protocol."""
