"""The short causal convolution in front of Mamba's scan, with a state that goes in and comes out."""
