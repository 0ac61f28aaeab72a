"""One small file a framework: its roles, its environment contract, when its job has succeeded."""
