"""What is measured, and how: benchmarks/README.md."""
