"""The life cycle: stages as a state machine, gates that read evidence, approvals."""
