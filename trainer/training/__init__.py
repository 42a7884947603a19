"""The training loop and the training stages of each kind of student."""
