"""Remedies that several messages name."""

SYSTEM_OPENCV = (
    "sudo apt install python3-opencv python3-venv, then python3 -m venv --system-site-packages ENV, "
    "ENV/bin/pip install onnxruntime click rich, ENV/bin/pip install --no-deps aerogaze"
)
"""How to get an OpenCV with GStreamer: the packages of PyPI have none, and must not hide the system's."""
