"""State that outlives a process: files, the ledger, processes."""
