"""The update agent for hawkBit and gooseBit servers."""
