"""The TensorRT engine, also for TensorRT for RTX."""
