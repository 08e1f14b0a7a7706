"""Statistics: arrays in, numbers out. Nothing here knows models, requests or the workspace."""
