"""The runtime for boards without internet: wheel sets and their installer."""
