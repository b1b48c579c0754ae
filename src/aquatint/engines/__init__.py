"""How a built network is run fast on a device, applied from outside: a net does not know that it is fast."""
