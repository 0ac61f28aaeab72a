"""The engine with a real API server: scheduler processes place pods on kwok's nodes, the model runs them."""
