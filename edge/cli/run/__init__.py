"""Command `aerogaze run`: options, opening of cameras and outputs, and the report."""
