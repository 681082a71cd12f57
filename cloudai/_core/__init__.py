"""What every provider stands on: registry, profiles, the one call path, retries, ledger."""
