"""One module for each wire shape of a model's endpoint, shared by all providers that speak it."""
