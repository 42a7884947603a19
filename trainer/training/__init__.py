"""Training stages of each kind of student, and the loop that runs them."""
