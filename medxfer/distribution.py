"""Where training runs: devices, processes, precision and determinism."""
