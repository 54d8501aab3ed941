"""How rows become batches, losses and predictions."""
