"""Shares of the machine's practical peak that layers reach."""
