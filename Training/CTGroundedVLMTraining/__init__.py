"""Pre-training of fine-grained CT vision-language models. Imports ``CTGroundedVLMLib``, never the other way round."""
