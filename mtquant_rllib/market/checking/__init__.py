"""What bars must satisfy, what they could have been, and what looks odd about them."""
