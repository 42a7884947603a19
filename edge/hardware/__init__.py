"""Facts about the machine and its meters: board, GPU, sensors, energy."""
