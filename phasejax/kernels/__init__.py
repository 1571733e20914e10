"""What is written in C++ for CPUs: how it is built, and the functions that call it or what stands in for it."""
