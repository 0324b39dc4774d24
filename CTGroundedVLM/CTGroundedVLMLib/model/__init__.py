"""The model: vision tower, text tower, organ attention, its configuration and its checkpoint directory."""
