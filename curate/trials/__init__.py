"""The proof: arms trained the same way on different rows, asked the same questions, and a verdict with its interval."""
