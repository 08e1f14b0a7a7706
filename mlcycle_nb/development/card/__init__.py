"""The model card: facts from records, each with its source; what people say, kept apart; and the check of both."""
