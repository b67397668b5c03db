"""What frozen features know, asked without rollouts: labelled frames, small heads on tokens, intervals."""
