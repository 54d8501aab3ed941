"""How a model is adapted."""
