"""Development: experiments, runs with their provenance, model versions and aliases."""
