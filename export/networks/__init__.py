"""Networks from elsewhere: how they take frames and give maps, and the adapter that makes them fly."""
