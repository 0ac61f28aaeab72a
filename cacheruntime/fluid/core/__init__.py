"""What Fluid tells a runtime, what it means here, and how it is answered. No I/O."""
