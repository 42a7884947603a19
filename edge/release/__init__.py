"""Release folders: manifest, quantization record, weight check and the shipped releases."""
