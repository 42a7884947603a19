"""Frames that NVIDIA's decoder or camera writes into memory which the GPU reads (NVMM), for a Jetson."""
