"""The operator's console: what a page on this machine shows of both sides, the ledger and the verdicts."""
