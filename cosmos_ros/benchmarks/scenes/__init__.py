"""The simulated worlds of the benchmarks, one module each; no model that ships was trained on them."""
