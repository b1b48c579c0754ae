"""What training eats: scenes that we render and caption ourselves, and pictures that others bring."""
