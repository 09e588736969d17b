"""The operator's commands: `usage-reporter`. Not deployed."""
