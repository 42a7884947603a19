"""The CUDA operations that the TensorRT engine needs, through pycuda or cuda-bindings."""
