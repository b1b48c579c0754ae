"""Using trained nets: a Request goes in, Pictures come out."""
