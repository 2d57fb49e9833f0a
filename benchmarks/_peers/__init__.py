"""The parts of `benchmarks/peers.py`: the work, the peers, their turns, the tables and charts.

A peer is a module with a function `load(folder, cell) -> {name: contestant}`, which runs in a
process of that peer's own: TensorFlow and torch in one process would share thread pools.
"""
