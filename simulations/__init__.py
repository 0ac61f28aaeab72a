"""Simulations: what data-aware gang scheduling saves, on your cluster and your trace."""
