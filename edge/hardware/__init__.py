"""Facts and meters of the machine: board, GPU, sensors, energy."""
