"""What agents are paid: the terms as functions of arrays, their sums for desk and allocator, and custom terms."""
