"""What is written in C++ for CPUs, behind `jax.ffi`, each with what JAX's own libraries do in its place."""
