"""The simulated worlds that the small model learns from, one module each."""
