"""Kernels of our own for the CPU, in C++: 3x3 convolutions by Winograd's algorithm, and GroupNorm with SiLU.

They are compiled on the machine that runs them, the first time that they are wanted (build.py), and know nothing of
torch: what is here gives them the addresses of its tensors. Where no compiler is, there are no kernels, and who asks is
told why.
"""
